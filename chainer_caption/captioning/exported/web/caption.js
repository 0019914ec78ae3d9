// Captions images with the model in this folder, in a browser:
//
//   import {load} from './caption.js';
//   const caption = await load();
//   const captions = await caption(blob);              // of an image file, best first; see `described`
import * as ort from './ort/ort.wasm.min.mjs';
import {prepare} from './prepare.js';

const HERE = new URL('.', import.meta.url);
// <S> begins a caption and </S> ends it; <UNK>, any other word, is never written.
const [BOS, EOS, UNK] = [0, 1, 2];

// Loads the model: a function from an image file to its captions.
export async function load() {
  const json = name => read(`${name}.json`).then(answer => answer.json());
  const session = name => read(`${name}.onnx`).then(answer => answer.arrayBuffer())
    .then(data => ort.InferenceSession.create(new Uint8Array(data)));
  const [config, recipe, vocabulary, encoder, start, step] = await Promise.all([
    json('config'), json('preprocessing'), json('vocabulary'),
    session('encoder'), session('decoder_start'), session('decoder_step')]);
  return async blob => {
    const {pixels, shape} = await prepare(blob, recipe);
    const {features} = await encoder.run({images: new ort.Tensor('float32', pixels, [1, ...shape])}, ['features']);
    const found = await search(features, start, step, config.search);
    return found.map(hypothesis => described(hypothesis, vocabulary.words, config.tokenizer));
  };
}

async function read(name) {
  const answer = await fetch(new URL(name, HERE));
  if (!answer.ok) throw new Error(`${name} cannot be loaded (${answer.status})`);
  return answer;
}

// A hypothesis as the rows of `chainer-caption generate -o captions.jsonl` have it; log-probabilities in nats.
function described({words, logProb, finished}, vocabulary, tokenizer) {
  const tokens = words.map(word => vocabulary[word]);
  return {
    caption: tokens.join(tokenizer === 'words' ? ' ' : ''), tokens, log_prob: logProb,
    log_prob_per_token: logProb / Math.max(1, words.length + finished), finished,
  };
}

// Beam search: the best captions of an image of these features, (1, D), best first. A hypothesis has the ids of its
// words, without <S> and </S>; the sum of their log-probabilities and that of its </S>; the score by which hypotheses
// are compared; whether it has its </S>; and the row of the state that it continues.
async function search(features, start, step, {width, top, max_length: longest, length_normalization: power}) {
  const compared = (logProb, tokens) => logProb * tokens ** -power;
  const started = await start.run({features});
  let state = start.outputNames.map(name => started[name]);
  let alive = [{words: [], logProb: 0, score: 0, finished: false, row: 0}];
  let finished = [];
  for (let length = 1; alive.length; length += 1) {
    const feeds = {
      parents: integers(alive.map(({row}) => row)), tokens: integers(alive.map(({words}) => words.at(-1) ?? BOS))};
    state.forEach((tensor, i) => { feeds[`state${i}`] = tensor; });
    const {log_probs: {data, dims: [, count]}, ...next} = await step.run(feeds);
    state = state.map((_, i) => next[`next_state${i}`]);
    const rows = alive.map((_, i) => data.subarray(i * count, (i + 1) * count));
    // The probabilities of the other words stay as they are.
    for (const row of rows) row[BOS] = row[UNK] = -Infinity;
    if (length > longest) {
      finished.push(...alive.map((hypothesis, i) => atEnd(hypothesis, rows[i], length, compared)));
      break;
    }
    // The finished ones compete with the continuations, and are before them where scores are equal.
    const beam = [...finished];
    alive.forEach(({words, logProb}, row) => rows[row].forEach((value, word) => {
      const score = compared(logProb + value, length);
      if (!(score > (beam.length < width ? -Infinity : beam[width - 1].score))) return;
      const ends = word === EOS;
      insert(beam, {words: ends ? words : [...words, word], logProb: logProb + value, score, finished: ends, row});
      if (beam.length > width) beam.pop();
    }));
    finished = beam.filter(hypothesis => hypothesis.finished);
    alive = beam.filter(hypothesis => !hypothesis.finished);
    // What is alive keeps its log-probability at best.
    const bound = Math.max(...alive.map(({logProb}) => compared(logProb, longest + 1)));
    if (finished.length >= top && finished[top - 1].score >= bound) break;
  }
  return finished.sort((a, b) => b.score - a.score).slice(0, top);
}

// A hypothesis of the maximum length ends where </S> is its likeliest word, and is cut elsewhere.
function atEnd(hypothesis, row, length, compared) {
  if (row.some(value => value > row[EOS])) return hypothesis;
  const logProb = hypothesis.logProb + row[EOS];
  return {...hypothesis, logProb, score: compared(logProb, length), finished: true};
}

// Inserts a hypothesis into a beam, best first, after those of the same score.
function insert(beam, hypothesis) {
  let place = beam.length;
  while (place > 0 && beam[place - 1].score < hypothesis.score) place -= 1;
  beam.splice(place, 0, hypothesis);
}

function integers(numbers) {
  return new ort.Tensor('int64', BigInt64Array.from(numbers, BigInt), [numbers.length]);
}
