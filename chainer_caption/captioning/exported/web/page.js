// Captions images in the browser, by worker.js.
{
  const waiting = new Map();                            // an image's number to the function that takes its captions
  let worker = null;
  let number = 0;
  let failure = null;                                   // why nothing can be captioned

  captionPage(file => new Promise(resolve => {
    const answer = ({captions, error}) => resolve({filename: file.name, ...(captions ? {captions} : {error})});
    if (failure !== null) {
      answer({error: failure});
      return;
    }
    number += 1;
    waiting.set(number, answer);
    worker.postMessage({number, file});
  }), 1);

  addEventListener('DOMContentLoaded', () => {
    const how = document.getElementById('how');
    const instruction = how.textContent;
    const fail = why => {
      how.textContent = failure = why;
      for (const answer of waiting.values()) answer({error: why});
      waiting.clear();
    };
    how.textContent = 'Loading the model …';
    if (location.protocol === 'file:') {
      fail('Browsers load the model from a web server only: python -m http.server');
      return;
    }
    worker = new Worker('worker.js', {type: 'module'});
    worker.addEventListener('error', () => fail('This browser cannot run the model'));
    worker.addEventListener('message', ({data: {loaded, why, ...answer}}) => {
      if (loaded) how.textContent = instruction;
      else if (loaded === false) fail(`The model cannot be loaded: ${why}`);
      else waiting.get(answer.number)?.(answer);
      waiting.delete(answer.number);
    });
  });
}
