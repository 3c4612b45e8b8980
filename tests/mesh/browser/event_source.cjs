// Watches an execution by EventSource through a proxy that cuts the connection after some messages, twice, and
// cancels the execution in the end.
"use strict";
const net = require("node:net");
const {withPage, report} = require("./chromium.cjs");

// A TCP proxy to the gateway. It notes each watch that passes: its Last-Event-ID, and the status of the answer.
function startProxy(gateway) {
  const {hostname, port} = new URL(gateway);
  const requests = [];
  const watches = new Set();
  const sockets = new Set();
  const server = net.createServer((client) => {
    const upstream = net.connect(Number(port), hostname);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => { sockets.delete(socket); client.destroy(); upstream.destroy(); });
    }
    let noted = null; // the watch whose answer is awaited on this connection
    client.on("data", (data) => {
      const head = data.toString("latin1");
      if (/^GET \S*:watch/.test(head)) {
        noted = {lastEventId: head.match(/^last-event-id: *(.*?)\r$/im)?.[1] ?? null, status: null};
        requests.push(noted);
        watches.add(client);
      }
      upstream.write(data);
    });
    upstream.on("data", (data) => {
      if (noted?.status === null) noted.status = Number(data.toString("latin1").match(/^HTTP\/1\.1 (\d+)/)?.[1]);
      client.write(data);
    });
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => resolve({
      url: `http://127.0.0.1:${server.address().port}`,
      requests,
      cut() {
        for (const client of watches) client.resetAndDestroy();
        watches.clear();
      },
      close() {
        for (const socket of sockets) socket.destroy();
        server.close();
      },
    }));
  });
}

// How many messages come through each connection before something is done.
const MESSAGES = 5;

async function main({gateway, cuts}) {
  const proxy = await startProxy(gateway);
  try {
    return await withPage(async (page) => {
      await page.goto(`${proxy.url}/healthz`); // any page of the gateway's origin
      let cut = 0;
      let connections = 0; // those that `since` counts for
      let since = 0;
      await page.exposeFunction("seen", async () => {
        if (connections !== proxy.requests.length) {
          connections = proxy.requests.length;
          since = 0;
        }
        since += 1;
        if (since !== MESSAGES) return;
        if (cut < cuts) {
          cut += 1;
          proxy.cut();
        } else {
          await page.evaluate(() => window.post(`/v1/executions/${window.executionId}:cancel`, {reason: "seen enough"}));
        }
      });
      await page.evaluate(async () => {
        const script = "i=0; while :; do echo line $((i++)); sleep 0.05; done"; // until it is cancelled
        window.post = async (path, message) => {
          const headers = {"content-type": "application/json"};
          const response = await fetch(path, {method: "POST", headers, body: JSON.stringify(message)});
          if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
          return response.json();
        };
        const created = await window.post("/v1/executions", {spec: {language: "bash", script}});
        window.executionId = created.execution.executionId;
        window.messages = [];
        window.source = new EventSource(`/v1/executions/${window.executionId}:watch`);
        for (const type of ["event", "end", "message"]) {
          window.source.addEventListener(type, (message) => {
            window.messages.push({type, id: message.lastEventId});
            window.seen();
          });
        }
      });
      await page.waitForFunction(() => window.source.readyState === EventSource.CLOSED, null, {timeout: 120_000});
      const seen = await page.evaluate(() => ({
        executionId: window.executionId, messages: window.messages, readyState: window.source.readyState,
      }));
      return {...seen, cuts: cut, requests: proxy.requests};
    });
  } finally {
    proxy.close();
  }
}

report(main);
