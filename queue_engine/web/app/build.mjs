// Build the console: `node build.mjs` writes ../static, `node build.mjs --tests` the tests for node's runner.
// The same sources give the same bytes: names are hashes of the text, and gzip has no time.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const common = { absWorkingDir: here, bundle: true, format: "esm", target: "es2022", logLevel: "warning", legalComments: "none" };

if (process.argv.includes("--tests")) await buildTests();
else await buildPage();

async function buildTests() {
  const tests = (await readdir(join(here, "tests"))).filter((name) => name.endsWith(".test.ts"));
  const out = join(here, "build/tests");
  await rm(out, { recursive: true, force: true });
  await build({ ...common, entryPoints: tests.map((name) => `tests/${name}`), outdir: out, platform: "node", external: ["node:*"] });
}

async function buildPage() {
  const { outputFiles } = await build({
    ...common,
    entryPoints: ["src/main.tsx", "src/console.css"],
    outdir: "out",
    write: false,
    minify: true,
    splitting: true,
    jsx: "automatic",
    jsxImportSource: "preact",
    entryNames: "[name]-[hash]",
    chunkNames: "part-[hash]",
    define: { "process.env.NODE_ENV": '"production"' },
  });
  const out = join(here, "../static");
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  const names = {};
  for (const file of outputFiles) {
    const name = file.path.split("/").pop();
    if (name.startsWith("main-")) names[name.endsWith(".css") ? "style" : "script"] = name;
    if (name.startsWith("console-")) names.style = name;
    await writeFile(join(out, name), file.contents);
    await writeFile(join(out, `${name}.gz`), packed(file.contents));
  }
  const page = (await readFile(join(here, "src/index.html"), "utf8")).replace("{{script}}", names.script).replace("{{style}}", names.style);
  await writeFile(join(out, "index.html"), page);
  const digest = createHash("sha256");
  for (const file of outputFiles) digest.update(file.contents);
  console.log(`console: ${outputFiles.length} files, ${Math.round(outputFiles.reduce((sum, one) => sum + packed(one.contents).length, 0) / 102.4) / 10} kB gzip, ${digest.digest("hex").slice(0, 12)}`);
}

// The tenth byte names the system that has packed; it differs between machines and means nothing.
function packed(contents) {
  const bytes = gzipSync(contents, { level: 9 });
  bytes[9] = 255;
  return bytes;
}
