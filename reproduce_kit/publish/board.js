'use strict';
// Sorts and filters the board. Without this script the table reads as it was printed.
const board = document.getElementById('board');
const form = document.getElementById('filters');
const body = board.tBodies[0];
const rows = [...body.rows];
const heads = [...board.tHead.rows[0].cells];
const ORDERS = {
  label: ['ascending', 'descending', 'none'],
  number: ['descending', 'ascending', 'none'],
};

function fits(cell, lines, wanted) {
  const ofRecipe = lines.filter(line => !wanted.recipe || line.dataset.recipe === wanted.recipe);
  if (wanted.sources && cell.dataset.sources !== wanted.sources) return false;
  if (wanted.recipe && !ofRecipe.length) return false;
  return !wanted.verdict || ofRecipe.some(line => line.dataset.state === wanted.verdict);
}

function filter() {
  const wanted = Object.fromEntries(new FormData(form));
  let shown = 0;
  let total = 0;
  for (const row of rows) {
    row.hidden = true;
    for (const button of row.querySelectorAll('.cell')) {
      const lines = [...button.querySelectorAll('.line')];
      for (const line of lines) {
        const isAsked = line.dataset.recipe === wanted.recipe;
        line.hidden = wanted.recipe ? !isAsked : !line.hasAttribute('data-shown');
      }
      button.hidden = !fits(button.parentElement, lines, wanted);
      total += 1;
      if (!button.hidden) {
        shown += 1;
        row.hidden = false;
      }
    }
  }
  document.getElementById('shown').textContent = `${shown} of ${total} numbers`;
}

function compare(first, second, index, kind) {
  const [a, b] = [first, second].map(row => row.cells[index].dataset.value);
  if (!a || !b) return 0;
  return kind === 'number' || !isNaN(a) ? a - b : a.localeCompare(b);
}

function sort(head) {
  const { kind } = head.dataset;
  const index = heads.indexOf(head);
  const orders = ORDERS[kind];
  const next = orders[(orders.indexOf(head.getAttribute('aria-sort')) + 1) % orders.length];
  for (const other of heads) other.setAttribute('aria-sort', 'none');
  head.setAttribute('aria-sort', next);
  const sign = next === 'ascending' ? 1 : -1;
  const isEmpty = row => !row.cells[index].dataset.value;
  const sorted = next === 'none' ? rows : [
    ...rows.filter(row => !isEmpty(row)).sort((a, b) => sign * compare(a, b, index, kind)),
    ...rows.filter(isEmpty),
  ];
  body.append(...sorted);
  board.classList.toggle('sorted', next !== 'none');
}

for (const head of heads) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = head.textContent;
  button.addEventListener('click', () => sort(head));
  head.replaceChildren(button);
  head.setAttribute('aria-sort', 'none');
}
form.addEventListener('change', filter);
form.addEventListener('submit', event => event.preventDefault());
form.addEventListener('reset', () => setTimeout(filter));
form.hidden = false;
filter();
