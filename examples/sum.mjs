// Adds up the numbers that it is given on standard input.

import { readFileSync } from "node:fs";

const words = readFileSync(0, "utf8").split(/\s+/).filter(Boolean);
const sum = words.reduce((sum, word) => sum + Number(word), 0);
console.log(`${words.length} numbers, sum ${sum}`);
