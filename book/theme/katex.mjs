// Sets the formulas of notebook outputs: JSON in on stdin, JSON out on stdout. mystmd has set those of the text.
import { readFileSync } from "node:fs";
import katex from "./node_modules/katex/dist/katex.mjs";

const { macros, formulas } = JSON.parse(readFileSync(0, "utf8"));
const set = ({ tex, display }) => {
  try {
    return { html: katex.renderToString(tex, { displayMode: display, macros: { ...macros }, strict: "ignore" }) };
  } catch (error) {
    return { error: String(error.message) };
  }
};
process.stdout.write(JSON.stringify(formulas.map(set)));
