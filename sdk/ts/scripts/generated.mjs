// Copies what `make generate` has made of the contracts into the sources, and the licence into the package: a published package has all that it needs.
import { cpSync, rmSync } from "node:fs";

const at = (path) => new URL(`../${path}`, import.meta.url);
rmSync(at("src/gen"), { recursive: true, force: true });
cpSync(at("../../gen/ts"), at("src/gen"), { recursive: true });
cpSync(at("../../LICENSE"), at("LICENSE"));
