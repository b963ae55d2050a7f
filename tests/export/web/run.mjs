// node run.mjs MODEL.onnx INPUT.json node|web: prints the first output as JSON. The packages come from NODE_PATH's folder.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const [file, input, runtime] = process.argv.slice(2);
const require = createRequire(`${process.cwd()}/`);
const ort = require(runtime === "web" ? "onnxruntime-web/wasm" : "onnxruntime-node");
if (runtime === "web") ort.env.wasm.numThreads = 1;
const { dims, data } = JSON.parse(await readFile(input));
const session = await ort.InferenceSession.create(await readFile(file));
const feeds = { [session.inputNames[0]]: new ort.Tensor("uint8", Uint8Array.from(data), dims) };
const output = (await session.run(feeds))[session.outputNames[0]];
console.log(JSON.stringify(Array.from(output.data)));
