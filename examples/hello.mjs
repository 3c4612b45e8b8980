// Counts down, a line at a time.

import { setTimeout as pause } from "node:timers/promises";

console.log(`Hello from Node.js ${process.version}`);
for (const number of [3, 2, 1]) {
  await pause(100);
  console.log(`${number} ...`);
}
await pause(100);
console.log("Done. 🎉");
