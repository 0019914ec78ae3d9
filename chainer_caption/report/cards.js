'use strict';
// The text of a card, in the gallery and on the service's page. Data become text nodes and properties, never markup.

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The captions of a row and its name. `untrusted(tag, properties, text)` makes the elements with untrusted text.
function cardText(row, untrusted) {
  const [best, ...others] = row.captions || [];
  const text = make('div', {className: 'text'});
  if (best) {
    const p = untrusted('p', {className: 'best'}, best.caption);
    p.append(...ending(best));
    text.append(p, make('p', {className: 'scores'},
      `${nats(best.log_prob)} nats, ${nats(best.log_prob_per_token)} a token`));
  }
  if (row.skipped !== undefined) text.append(make('p', {className: 'problem'}, `Skipped: ${row.skipped}`));
  if (row.familiarity !== undefined) text.append(trust(row));
  if (others.length) text.append(make('ol', {start: 2}, ...others.map(other => alternative(other, best, untrusted))));
  if (row.error !== undefined) {
    text.append(make('p', {className: 'problem'}, 'No captions: ', untrusted('span', {lang: ''}, row.error)));
  }
  const id = row.image_id === undefined ? '' : `#${row.image_id} `;
  text.append(make('p', {className: 'name', translate: false}, id, untrusted('span', {lang: ''}, row.filename)));
  return text;
}

// How far a caption can be trusted, and how near the image is to the training images.
function trust({confidence, familiarity}) {
  const line = make('p', {className: 'scores trust'});
  const add = (name, value, title) => {
    const bar = make('i');
    bar.style.setProperty('--share', 100 * value + '%');
    line.append(make('span', {title}, `${name} ${Math.round(100 * value)} %`, bar));
  };
  if (confidence !== undefined) add('Confidence', confidence, 'Probability that the first caption is good');
  add('Familiarity', familiarity, 'Share of held-out training images that are less like the others than this image');
  return line;
}

function alternative(caption, best, untrusted) {
  const share = Math.min(1, Math.exp(caption.log_prob - best.log_prob));
  const bar = make('i', {title: `${(100 * share).toFixed()} % of the first caption’s probability`});
  bar.style.setProperty('--share', 100 * share + '%');
  const text = untrusted('span', {}, caption.caption);
  text.append(...ending(caption));
  return make('li', {}, text, make('span', {className: 'scores'},
    `${nats(caption.log_prob)} / ${nats(caption.log_prob_per_token)}`, bar));
}

function nats(score) {
  return score === null ? '−∞' : score.toFixed(2).replace('-', '−');
}

function ending(caption) {
  return caption.finished ? [] :
    [' ', make('span', {className: 'cut', title: 'Cut at the length limit'}, '… unfinished')];
}
