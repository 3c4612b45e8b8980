// Uses the page to try it as a person would: open it, press Run, read the output.
"use strict";
const path = require("node:path");
const {withPage, report} = require("./chromium.cjs");

async function main({gateway, screenshots}) {
  return withPage(async (page) => {
    const problems = [];
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
    await page.goto(`${gateway}/`);
    // The runtimes are there before anything can be run.
    await page.waitForFunction(() => document.querySelector("#runtime").options.length > 0);
    await page.getByRole("button", {name: "Run"}).click();
    const output = page.getByRole("log");
    await page.waitForFunction(() => document.querySelector("#verdict").textContent.length > 1);
    await page.screenshot({path: path.join(screenshots, "page-completed.png")});
    const seen = {
      output: await output.textContent(),
      verdict: await page.locator("#verdict").textContent(),
      problems,
    };
    // Output is there while the script runs: this one ends by the button only.
    await page.locator("#script").fill("import time\nprint('running', flush=True)\ntime.sleep(250)");
    await page.getByRole("button", {name: "Run"}).click();
    await page.waitForFunction(() => document.querySelector("#output").textContent === "running\n");
    await page.screenshot({path: path.join(screenshots, "page-running.png")});
    await page.getByRole("button", {name: "Cancel"}).click();
    await page.waitForFunction(() => document.querySelector("#verdict").textContent.startsWith("cancelled"));
    // A flood of short lines, which the page has to keep up with.
    await page.locator("#script").fill("import os, sys\nfor _ in range(900_000): sys.stdout.write('y\\n')\nprint('last')");
    await page.getByRole("button", {name: "Run"}).click();
    await page.waitForFunction(() => document.querySelector("#output").textContent.endsWith("last\n"));
    await page.waitForFunction(() => document.querySelector("#verdict").textContent.startsWith("completed"));
    await page.screenshot({path: path.join(screenshots, "page-flood.png")});
    const floodLines = (await output.textContent()).split("\n").length - 1;
    // What comes behind a flood takes the place of as much of it, whatever the pieces in which they came.
    const behindFlood = await page.evaluate(async () => {
      const drawn = () => new Promise((resolve) => { requestAnimationFrame(() => requestAnimationFrame(resolve)); });
      output.clear();
      output.put("stdout", "y\n".repeat(4_000));
      await drawn();
      output.put("stdout", "z\n".repeat(1_000));
      await drawn();
      return document.querySelector("#output").textContent.split("\n").length - 1;
    });
    return {...seen, floodLines, behindFlood};
  });
}

report(main);
