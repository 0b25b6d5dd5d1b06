// Adds the raw values under /v1/kv/KEY to the OpenAPI document. They are hand-written routes, which no annotation of the
// contract can describe: PUT takes any bytes as its body, and GET answers with bytes unless JSON is asked for.
//
//   node tools/raw-values.mjs gen/openapi/raftkv.swagger.json
import { readFileSync, writeFileSync } from "node:fs";

const file = process.argv[2];
const document = JSON.parse(readFileSync(file, "utf8"));
const path = document.paths["/v1/kv/{key}"];
const key = path.get.parameters.find((p) => p.name === "key");
const requestId = path.delete.parameters.filter((p) => p.name.startsWith("requestId."));

const text = { type: "string" };
const number = { type: "string", format: "uint64" };
const who = {
  "Raftkv-Cluster": text, "Raftkv-Node": text, "Raftkv-Shard": number, "Raftkv-Term": number, "Raftkv-Index": number,
  "Raftkv-Revision": number, "Raftkv-Role": text, "Raftkv-Freshness-Ms": number,
};
const version = {
  ETag: { ...text, description: "The mod revision, in quotes." },
  "Raftkv-Mod-Revision": number, "Raftkv-Create-Revision": number, "Raftkv-Version": number,
};

path.get.produces = ["application/octet-stream", "application/json"];
path.get.responses["200"].description =
  "The bytes of the value, as application/octet-stream; with `Accept: application/json` the GetResponse.";
path.get.responses["200"].headers = { ...version, ...who };
path.delete.responses["200"].headers = who;
path.put = {
  summary: "Writes the body, whatever its media type, as the value of a key.",
  operationId: "putRawValue",
  consumes: ["application/octet-stream"],
  responses: {
    200: {
      description: "A successful response.",
      schema: { $ref: "#/definitions/v1PutResponse" },
      headers: { ...version, ...who },
    },
    default: path.get.responses.default,
  },
  parameters: [
    key,
    {
      name: "body",
      description: "The value: any bytes, at most `Limits.value_bytes`; may be empty.",
      in: "body",
      required: true,
      schema: { type: "string", format: "binary" },
    },
    ...requestId,
  ],
  tags: path.get.tags,
};
writeFileSync(file, JSON.stringify(document, null, 2) + "\n");
