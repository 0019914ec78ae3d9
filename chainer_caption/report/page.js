// A page that captions images: takes them, and shows their captions as the cards of cards.js.

const pause = milliseconds => new Promise(resolve => { setTimeout(resolve, milliseconds); });

// `caption(file)` resolves to the row of an image, which has an error where there are no captions; it is called for so
// many images `atOnce`.
function captionPage(caption, atOnce) {
  // Width of the camera's images, in pixels; encoders take fewer.
  const WIDE = 640;

  const by = id => document.getElementById(id);
  const rows = [];                                      // of all cards, oldest first
  const waiting = [];                                   // functions that send the next images
  let sending = 0;
  let stream = null;

  addEventListener('DOMContentLoaded', () => {
    addEventListener('dragover', event => { event.preventDefault(); by('drop').classList.add('over'); });
    addEventListener('dragleave', event => event.relatedTarget || by('drop').classList.remove('over'));
    addEventListener('drop', event => {
      event.preventDefault();
      by('drop').classList.remove('over');
      add(event.dataTransfer.files);
    });
    addEventListener('paste', event => add(event.clipboardData.files));
    for (const input of document.querySelectorAll('input[type=file]')) {
      input.addEventListener('change', () => { add(input.files); input.value = ''; });
    }
    by('copy').addEventListener('click', event => copy(event.target, rows));
    by('csv').addEventListener('click', () => save('captions.csv', 'text/csv', csv(rows)));
    by('json').addEventListener('click', () => save('captions.json', 'application/json', JSON.stringify(rows, null, 2)));
    by('clear').addEventListener('click', clear);
    by('camera').addEventListener('click', watch);
    by('keep').addEventListener('click', keep);
    by('stop').addEventListener('click', unwatch);
    // Only pages of this machine and of HTTPS may use the camera; a phone takes images for any page.
    by('camera').hidden = !navigator.mediaDevices?.getUserMedia;
    const touched = matchMedia('(pointer: coarse)').matches;
    by('take').hidden = !touched || !by('camera').hidden;
    if (touched) by('how').textContent = 'Choose images, or take one';
  });

  // ---- Images and their cards, newest first

  function add(files) {
    for (const file of files) {
      const card = waitingCard(file);
      waiting.push(async () => finish(card, await caption(file)));
    }
    next();
  }

  function waitingCard(file) {
    const card = make('article', {ariaBusy: 'true'}, image(file), make('div', {className: 'text'},
      make('p', {className: 'waiting'}, 'Waiting for captions …'), make('p', {className: 'name'}, file.name)));
    by('cards').prepend(card);
    return card;
  }

  function image(file) {
    const img = make('img', {alt: '', src: URL.createObjectURL(file)});
    // A service captions formats that browsers do not show, such as TIFF.
    img.addEventListener('error', () => img.remove());
    img.addEventListener('load', () => img.style.setProperty('--tint', tint(img)));
    return img;
  }

  function tint(img) {
    const canvas = make('canvas', {width: 1, height: 1});
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(img, 0, 0, 1, 1);
    return `rgb(${context.getImageData(0, 0, 1, 1).data.slice(0, 3).join(' ')})`;
  }

  function next() {
    tell();
    while (sending < atOnce && waiting.length) {
      sending += 1;
      waiting.shift()().finally(() => { sending -= 1; next(); });
    }
  }

  function finish(card, row) {
    if (!card.isConnected) return;
    rows.push(row);
    card.ariaBusy = 'false';
    card.querySelector('.text').replaceWith(cardText(row, textElement));
    const img = card.querySelector('img');
    if (!row.captions?.length) {
      if (!row.captions) img?.remove();
      return;
    }
    if (img) img.alt = row.captions[0].caption;
    const button = make('button',
      {type: 'button', className: 'copy', ariaLabel: `Copy the captions of ${row.filename}`}, 'Copy');
    button.addEventListener('click', () => copy(button, [row], Infinity));
    card.append(button);
  }

  // An element for captions, names and reasons, in the direction of their script.
  function textElement(tag, properties, text) {
    return make(tag, {dir: 'auto', ...properties}, text);
  }

  function tell() {
    const failed = rows.filter(row => row.error !== undefined).length;
    const left = sending + waiting.length;
    by('tools').hidden = !by('cards').childElementCount;
    by('count').value = `${rows.length} ${rows.length === 1 ? 'image' : 'images'}` +
      (failed ? `, ${failed} failed` : '') + (left ? `, ${left} to do` : '');
  }

  function clear() {
    waiting.length = rows.length = 0;
    for (const img of by('cards').querySelectorAll('img')) URL.revokeObjectURL(img.src);
    by('cards').replaceChildren();
    tell();
  }

  // ---- The camera

  async function watch() {
    try {
      stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
    } catch (e) {
      by('how').textContent = e.name === 'NotAllowedError' ? 'The browser does not let this page use the camera'
        : 'No camera is available';
      return;
    }
    const video = document.querySelector('video');
    video.srcObject = stream;
    by('live').hidden = false;
    by('camera').hidden = true;
    by('live').scrollIntoView({block: 'nearest'});
    by('stop').focus({preventScroll: true});
    await video.play();
    const of = stream;
    while (stream === of) {
      const row = await caption(await frame(video));
      if (stream === of) show(row);
      await pause(row.captions ? 100 : 1000);
    }
  }

  let shown = null;

  // The element is kept while the caption is the same: screen readers announce changes alone.
  function show(row) {
    const text = cardText(row, textElement);
    const best = text.querySelector('.best');
    if (best && best.textContent === shown) {
      const before = by('live-captions').querySelector('.text');
      before.replaceChildren(before.querySelector('.best'), ...[...text.children].slice(1));
      return;
    }
    shown = best?.textContent;
    best?.setAttribute('role', 'status');
    by('live-captions').replaceChildren(text);
  }

  async function frame(video) {
    const width = Math.min(WIDE, video.videoWidth);
    const canvas = make('canvas', {width, height: Math.round(width * video.videoHeight / video.videoWidth)});
    canvas.getContext('2d').drawImage(video, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise(resolve => { canvas.toBlob(resolve, 'image/jpeg', 0.9); });
    const time = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
    return new File([blob], `camera-${time}.jpg`, {type: blob.type});
  }

  async function keep() {
    add([await frame(document.querySelector('video'))]);
  }

  function unwatch() {
    for (const track of stream.getTracks()) track.stop();
    stream = shown = null;
    by('live-captions').replaceChildren();
    by('live').hidden = true;
    by('camera').hidden = false;
    by('camera').focus();
  }

  // ---- Copy and save

  // All captions of one image, or the best of each of several.
  async function copy(button, some, each = 1) {
    const lines = some.flatMap(row => (row.captions || []).slice(0, each).map(caption => caption.caption));
    const label = button.dataset.label ??= button.textContent;
    button.textContent = await toClipboard(lines.join('\n')) ? 'Copied' : 'Not copied';
    setTimeout(() => { button.textContent = label; }, 1500);
  }

  // Only pages of this machine and of HTTPS may use the clipboard; others need the older way.
  async function toClipboard(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
    const area = make('textarea', {value: text});
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }

  function save(name, type, text) {
    const link = make('a', {download: name, href: URL.createObjectURL(new Blob([text], {type}))});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // As generate.py writes it, with formulas made text.
  function csv(some) {
    const lines = ['filename,rank,caption,log_prob,log_prob_per_token,finished,error,familiarity,confidence,skipped'];
    for (const {filename, captions, error, familiarity, confidence, skipped} of some) {
      const name = filename.search(FORMULA) === 0 ? `./${filename}` : filename;
      const special = name.search(FORMULA) < 0 ? /[",\r\n]/ : /^/;
      const quoted = value => special.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
      const add = (...cells) => lines.push([name, ...cells, familiarity, confidence, skipped]
        .map(value => quoted(value ?? '')).join(','));
      if (!captions?.length) add('', '', '', '', '', cell(error ?? ''));
      else captions.forEach((c, i) => add(i + 1, cell(c.caption), c.log_prob, c.log_prob_per_token, c.finished, ''));
    }
    return lines.map(line => `${line}\r\n`).join('');
  }

  const FORMULA = /(^|[;|\t\r\n] *)([=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])/g;
  const cell = text => text.replace(FORMULA, "$1'$2");
}
