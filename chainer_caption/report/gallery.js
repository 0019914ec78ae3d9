// Searches, sorts and shows the rows, as cards that cards.js fills.
{
  // Cards come in blocks, and a block is in the document only while it is near the window. Sixty fill whole rows of
  // one to six columns, so that no gap shows where one block ends.
  const BLOCK = 60;

  let rows, gallery, query, order, count;
  let blocks = [];
  let terms = [];

  const watcher = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) (isIntersecting ? fill : empty)(target.block);
  }, {rootMargin: '150% 0px'});

  addEventListener('DOMContentLoaded', () => {
    [gallery, query, order, count] = ['gallery', 'query', 'order', 'count'].map(id => document.getElementById(id));
    rows = Array.from(document.querySelectorAll('script[type="application/json"]'), element => {
      const row = JSON.parse(element.textContent);
      row.data = element.nextElementSibling;
      row.texts = [row.filename, ...(row.captions || []).map(caption => caption.caption), row.error || row.skipped || '']
        .map(text => text.normalize());
      row.score = row.captions?.[0]?.log_prob ?? -Infinity;
      return row;
    });
    if (!rows.some(sure)) for (const option of order.querySelectorAll('[data-of=confidence]')) option.remove();
    query.form.hidden = false;
    query.form.addEventListener('submit', event => event.preventDefault());
    query.addEventListener('input', show);
    order.addEventListener('change', show);
    addEventListener('resize', estimate);
    addEventListener('beforeprint', () => blocks.forEach(fill));
    addEventListener('afterprint', watch);
    addEventListener('keydown', shortcut);
    addEventListener('hashchange', restore);
    restore();
  });

  // The search is kept in the address, as #q=dog&sort=name, so that it can be shared.
  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    query.value = state.get('q') || '';
    order.value = orders[state.get('sort')] ? state.get('sort') : '';
    show();
  }

  function save() {
    const state = new URLSearchParams();
    if (query.value) state.set('q', query.value);
    if (order.value) state.set('sort', order.value);
    if (location.hash.slice(1) !== String(state)) history.replaceState(null, '', '#' + state);
  }

  function shortcut(event) {
    if (event.key === '/' && !event.ctrlKey && !event.metaKey && !event.altKey && document.activeElement !== query) {
      event.preventDefault();
      query.select();
    }
  }

  // ---- Searching: every word of the query must begin a word of the file name or of a caption. Case does not count;
  // accents do once the query has some ("cho" finds "chó", "chó" does not find "chợ").

  const sameLength = (changed, text) => changed.length === text.length ? changed : text;
  const plain = text => sameLength(text.toLowerCase(), text);
  const bare = text => plain(sameLength(
    text.normalize('NFD').replace(/[\u0300-\u036f]/g, '').normalize().replace(/đ/g, 'd').replace(/Đ/g, 'D'), text));

  function term(word) {
    const view = bare(word) === plain(word) ? bare : plain;
    const text = view(word);
    const escaped = text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
    return {text, view, pattern: new RegExp((/^[\p{L}\p{N}]/u.test(text) ? '(?<![\\p{L}\\p{N}])' : '') + escaped, 'gu')};
  }

  function found(row, {text, view, pattern}) {
    const haystack = row[view.name] ??= row.texts.map(view).join('\n');
    return haystack.includes(text) && haystack.search(pattern) >= 0;
  }

  function marked(text) {
    text = text.normalize();
    const ranges = terms
      .flatMap(({view, pattern}) => Array.from(view(text).matchAll(pattern), m => [m.index, m.index + m[0].length]))
      .sort((a, b) => a[0] - b[0]);
    const parts = [];
    let end = 0;
    for (const [from, to] of ranges) {
      if (to <= end) continue;
      const start = Math.max(from, end);
      parts.push(text.slice(end, start), make('mark', {}, text.slice(start, to)));
      end = to;
    }
    return [...parts, text.slice(end)];
  }

  // ---- Results, in order

  const sure = row => row.confidence !== undefined;
  const names = new Intl.Collator(undefined, {numeric: true});
  const orders = {
    name: (a, b) => names.compare(a.filename, b.filename),
    likely: (a, b) => b.score - a.score || 0,
    unlikely: (a, b) => !a.captions?.length - !b.captions?.length || a.score - b.score || 0,
    confident: (a, b) => !sure(a) - !sure(b) || b.confidence - a.confidence || 0,
    unsure: (a, b) => !sure(a) - !sure(b) || a.confidence - b.confidence || 0,
  };

  function show() {
    terms = query.value.normalize().split(/\s+/).filter(Boolean).map(term);
    const shown = rows.filter(row => terms.every(wanted => found(row, wanted)));
    if (orders[order.value]) shown.sort(orders[order.value]);

    blocks = [];
    for (let i = 0; i < shown.length; i += BLOCK) {
      const block = {rows: shown.slice(i, i + BLOCK), element: make('section'), filled: false};
      block.element.block = block;
      blocks.push(block);
    }
    gallery.replaceChildren(...blocks.map(block => block.element));
    if (!shown.length) {
      gallery.append(make('p', {className: 'note'}, rows.length ? 'No images match.' : 'No images.'));
    }
    count.value = tally(shown);
    if (blocks.length) fill(blocks[0]);
    estimate();
    watch();
    if (gallery.getBoundingClientRect().top < 0) scrollTo(0, gallery.offsetTop - query.form.offsetHeight);
    save();
  }

  // An observer reports on every element that it begins to watch.
  function watch() {
    watcher.disconnect();
    blocks.forEach(block => watcher.observe(block.element));
  }

  function tally(shown) {
    const number = n => n.toLocaleString('en');
    const failed = shown.filter(row => row.error !== undefined).length;
    const skipped = shown.filter(row => row.skipped !== undefined).length;
    return (shown.length < rows.length ? number(shown.length) + ' of ' : '') + number(rows.length)
      + (rows.length === 1 ? ' image' : ' images') + (failed ? `, ${number(failed)} failed` : '')
      + (skipped ? `, ${number(skipped)} skipped` : '');
  }

  function fill(block) {
    if (block.filled) return;
    block.filled = true;
    block.element.style.minHeight = '';
    block.element.replaceChildren(...block.rows.map(card));
  }

  function empty(block) {
    if (!block.filled) return;
    block.filled = false;
    block.element.style.minHeight = block.element.offsetHeight + 'px';
    block.element.replaceChildren();
  }

  // Blocks that are not filled are taken to be as tall as one that is, so that the scroll bar is nearly right.
  function estimate() {
    const known = blocks.find(block => block.filled);
    if (!known) return;
    const each = known.element.offsetHeight / known.rows.length;
    for (const block of blocks) if (!block.filled) block.element.style.minHeight = each * block.rows.length + 'px';
  }

  // ---- Cards

  const untrusted = (tag, properties, text) =>
    make(tag, {lang: gallery.dataset.lang, dir: 'auto', ...properties}, ...marked(text));

  function card(row) {
    return make('article', {}, ...row.image ? [image(row, row.captions[0]?.caption)] : [], cardText(row, untrusted));
  }

  function image({image: {width, height, tint}, data}, alt = '') {
    const img = make('img', {
      width, height, alt, lang: gallery.dataset.lang, decoding: 'async',
      src: 'data:image/webp;base64,' + data.textContent,
    });
    img.style.setProperty('--tint', tint);
    return img;
  }
}
