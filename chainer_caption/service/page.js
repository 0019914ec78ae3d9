// Captions images by the service that serves the page.

const element = id => document.getElementById(id);

// The row of an image; a row with an error where the request fails.
async function caption(file) {
  if (file.size > element('token').dataset.most - 1000) {
    return {filename: file.name, error: 'the file is too large'};
  }
  const form = new FormData();
  form.append('image', file, file.name);
  try {
    for (;;) {
      const token = sessionStorage.getItem('token');
      const answer = await fetch('v1/captions', {
        method: 'POST', body: form, headers: token === null ? {} : {Authorization: `Bearer ${token}`},
      });
      if (answer.status === 401) await askForToken();
      else if (answer.status === 503) await pause(1000 * answer.headers.get('Retry-After'));
      // Forms do not keep all names as they are.
      else if (answer.ok) return {...(await answer.json())[0], filename: file.name};
      else return {filename: file.name, error: await reason(answer)};
    }
  } catch {
    return {filename: file.name, error: 'the service cannot be reached, or the file cannot be read'};
  }
}

// A proxy's refusals are no JSON.
function reason(answer) {
  return answer.json().then(({error}) => error, () => `the server refused it (${answer.status})`);
}

function askForToken() {
  element('token').hidden = false;
  element('secret').focus();
  return new Promise(resolve => element('token').addEventListener('submit', resolve, {once: true}));
}

function useToken(event) {
  event.preventDefault();
  sessionStorage.setItem('token', element('secret').value);
  element('secret').value = '';
  element('token').hidden = true;
}

addEventListener('DOMContentLoaded', () => element('token').addEventListener('submit', useToken));
// The service captions images together that arrive together.
captionPage(caption, 6);
