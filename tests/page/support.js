// Shared by the tests of the page: starts Chromium and waits.
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const PATIENCE = 20000;

// Ends the run because nothing could be tested.
function giveUp(why) {
  console.error(`tests/page: ${why}`);
  process.exit(2);
}

// Chromium from Debian; the modules of package-lock.json are fetched where they are missing.
async function launch(...args) {
  const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser'].find((file) => fs.existsSync(file));
  if (!executablePath) giveUp('there is no chromium; needed: apt-get install chromium');
  if (!fs.existsSync(path.join(__dirname, 'node_modules', 'axe-core'))) {
    const done = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: __dirname, stdio: 'inherit' });
    if (done.status !== 0) giveUp('npm ci failed; needed: apt-get install npm, and its registry');
  }
  return require('playwright-core').chromium.launch({ executablePath, args: ['--no-sandbox', ...args] });
}

function expect(holds, why) {
  if (!holds) throw new Error(why);
}

function same(got, wanted, what) {
  expect(JSON.stringify(got) === JSON.stringify(wanted), `${what}: ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`);
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits until `read` returns something true. The error message contains what it returned last.
async function eventually(what, read, limit = PATIENCE) {
  const deadline = Date.now() + limit;
  let got;
  while (Date.now() < deadline) {
    got = await read();
    if (got) return got;
    await pause(50);
  }
  throw new Error(`${what}: not within ${limit / 1000} s (${JSON.stringify(got)})`);
}

// Waits until the page shows this status.
const status = (page, word) => eventually(`the status is ${word}`, async () => (await page.textContent('#status')) === word);

module.exports = { PATIENCE, eventually, expect, giveUp, launch, pause, same, status };
