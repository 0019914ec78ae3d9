"""Chromium, driven by its DevTools protocol through a pair of pipes."""
import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time

PROGRAM = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)

# Without a screen, a camera, questions to the user, and requests of the browser's own.
_OPTIONS = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
            '--disable-background-networking', '--disable-component-update', '--remote-debugging-pipe',
            '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream')

# The lowest contrast of a text to its background, by WCAG 2.
CONTRAST = '''{
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = colour => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(c => linear(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        const colour = getComputedStyle(element).backgroundColor;
        return colour === 'rgba(0, 0, 0, 0)' ? behind(element.parentElement) : colour;
    };
    Math.min(...[...document.querySelectorAll('body *')].filter(
        e => e.offsetHeight && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
            const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
            return (a + 0.05) / (b + 0.05);
        }));
}'''


class Browser:
    """A browser with one page; a context manager.

    Args:
        folder (str or os.PathLike): Its profile.
    """

    def __init__(self, folder):
        self._ids, self.events = 0, []
        low, self._orders = os.pipe()
        self._answers, also_low = os.pipe()
        # By convention its pipes are 3, to read from, and 4; ours are others than these.
        theirs, ours = (fcntl.fcntl(handle, fcntl.F_DUPFD, 10) for handle in (low, also_low))
        command = [PROGRAM, *_OPTIONS, f'--user-data-dir={folder}', 'about:blank']
        self._process = subprocess.Popen(['bash', '-c', f'exec "$@" 3<&{theirs} 4>&{ours}', 'bash', *command],
                                         pass_fds=(theirs, ours), stderr=subprocess.DEVNULL)
        for handle in low, also_low, theirs, ours:
            os.close(handle)
        self._rest, self._session = b'', None
        target = self.do('Target.createTarget', url='about:blank')['targetId']
        self._session = self.do('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in 'Page', 'Runtime', 'Log', 'Network':
            self.do(f'{domain}.enable')

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(OSError):
            self._session = None
            self._send('Browser.close')
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._orders)
        os.close(self._answers)

    def _send(self, method, **parameters):
        self._ids += 1
        session = {} if self._session is None else {'sessionId': self._session}
        order = {'id': self._ids, 'method': method, 'params': parameters, **session}
        os.write(self._orders, json.dumps(order).encode() + b'\0')

    def do(self, method, **parameters):
        """Calls a method of the protocol and returns its result; earlier events are kept in `events`."""
        self._send(method, **parameters)
        while True:
            while b'\0' not in self._rest:
                part = os.read(self._answers, 2 ** 20)
                assert part, 'the browser has gone'
                self._rest += part
            message, self._rest = self._rest.split(b'\0', 1)
            message = json.loads(message)
            if message.get('id') == self._ids:
                assert 'error' not in message, message
                return message['result']
            self.events.append(message)

    def open(self, address):
        self.do('Page.navigate', url=address)
        self.wait('document.readyState === "complete"')

    def run(self, script):
        """The value of an expression; a promise is awaited."""
        result = self.do('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert 'exceptionDetails' not in result, result['exceptionDetails']
        return result['result'].get('value')

    def wait(self, script, seconds=60):
        """Waits until an expression is true; returns the seconds that it took."""
        began = time.monotonic()
        while not self.run(f'!!({script})'):
            assert time.monotonic() - began < seconds, f'not after {seconds} s: {script}'
            time.sleep(0.02)
        return time.monotonic() - began

    def screen(self, width, height, scheme='light', phone=False):
        """Sets the size of the window in CSS pixels, the colour scheme, and whether it is a phone's."""
        self.do('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=2 if phone else 1,
                mobile=phone)
        self.do('Emulation.setTouchEmulationEnabled', enabled=phone)
        self.do('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': scheme}])

    def shot(self):
        """The window as the bytes of a PNG file."""
        return base64.b64decode(self.do('Page.captureScreenshot', format='png')['data'])

    def drop(self, x, y, paths):
        """Drops files on a place of the window."""
        data = {'items': [], 'files': [str(path) for path in paths], 'dragOperationsMask': 1}
        for kind in 'dragEnter', 'dragOver', 'drop':
            self.do('Input.dispatchDragEvent', type=kind, x=x, y=y, data=data)

    def press(self, key, code, number, modifiers=0, **more):
        """Presses a key; one that types has its `text`."""
        down = 'keyDown' if 'text' in more else 'rawKeyDown'
        for kind in down, 'keyUp':
            self.do('Input.dispatchKeyEvent', type=kind, key=key, code=code, windowsVirtualKeyCode=number,
                    modifiers=modifiers, **(more if kind == down else {}))
