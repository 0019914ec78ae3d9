// Captions images beside the page, which stays responsive meanwhile.
import {load} from './caption.js';

const loading = load();
loading.then(() => postMessage({loaded: true}), error => postMessage({loaded: false, why: error.message}));

// Answers {number, file} by {number, captions} or {number, error}.
addEventListener('message', async ({data: {number, file}}) => {
  try {
    const caption = await loading;
    postMessage({number, captions: await caption(file)});
  } catch (error) {
    // The browser's own message says less: "The source image could not be decoded."
    const unreadable = error.name === 'InvalidStateError' || error.name === 'EncodingError';
    postMessage({number, error: unreadable ? 'not an image that this browser can read' : error.message});
  }
});
