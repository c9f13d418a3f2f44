import { root } from "./support/command.ts";
import { testExamples } from "./support/example-tests.ts";

// The system tests run them on Node, with the package that npm installs.
testExamples("on Bun", () => ({ command: [process.execPath], folder: root }));
