// A headless Chromium with a profile of its own, which is removed with it.
"use strict";
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const {chromium} = require("playwright-core");

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

function executable() {
  for (const folder of process.env.PATH.split(path.delimiter)) {
    const candidate = path.join(folder, "chromium");
    if (fs.existsSync(candidate)) return candidate;
  }
  throw new Error("chromium is not in PATH: apt-get install -y chromium");
}

// Calls `use` with a page, and closes the browser whatever happens.
async function withPage(use) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "runmesh-chromium-"));
  let browser;
  try {
    browser = await chromium.launchPersistentContext(profile, {
      executablePath: executable(), args: FLAGS, viewport: {width: 1280, height: 800}, timeout: 60_000,
    });
    const page = browser.pages()[0] ?? await browser.newPage();
    page.setDefaultTimeout(60_000);
    return await use(page);
  } finally {
    await browser?.close();
    fs.rmSync(profile, {recursive: true, force: true, maxRetries: 10, retryDelay: 100});
  }
}

// Prints what `main` returns for the arguments of the command line, as JSON.
function report(main) {
  main(JSON.parse(process.argv[2])).then(
    (result) => { process.stdout.write(JSON.stringify(result)); },
    (error) => { console.error(error); process.exitCode = 1; },
  );
}

module.exports = {withPage, report};
