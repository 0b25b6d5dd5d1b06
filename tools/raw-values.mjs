// Adds the raw values under /v1/kv/KEY to the OpenAPI document. They are hand-written routes, which no annotation of the
// contract can describe: PUT takes any bytes as its body, and GET answers with bytes unless JSON is asked for.
//
//   node tools/raw-values.mjs gen/openapi/raftkv.swagger.json
import { readFileSync, writeFileSync } from "node:fs";

const file = process.argv[2];
const document = JSON.parse(readFileSync(file, "utf8"));
const path = document.paths["/v1/kv/{key}"];
const key = path.get.parameters.find((p) => p.name === "key");
const ofWrites = path.delete.parameters.filter((p) => /^(requestId\.|condition\.|prevKv$)/.test(p.name));

const text = { type: "string" };
const number = { type: "string", format: "uint64" };
const who = {
  "Raftkv-Cluster": text, "Raftkv-Node": text, "Raftkv-Shard": number, "Raftkv-Term": number, "Raftkv-Index": number,
  "Raftkv-Revision": number, "Raftkv-Role": text, 
  "Raftkv-Freshness-Ms": { ...text, description: "How old the state may be, in milliseconds; `unknown` if that is not known." },
  "Raftkv-Token": { ...text, description: "What the answer shows or has done, for later reads that must not be behind it." },
};
const version = {
  ETag: { ...text, description: "The mod revision, in quotes." },
  "Raftkv-Mod-Revision": number, "Raftkv-Create-Revision": number, "Raftkv-Version": number,
};

const condition = (name, description) => ({ name, description, in: "header", required: false, type: "string" });
const headersOfWrites = [
  condition("If-Match", "An ETag: writes only if the value is still that one. `*`: only if there is one."),
  condition("If-None-Match", "`*`: writes only if the key does not exist."),
];
const preconditionFailed = {
  description: "The condition does not hold, and nothing was done. The detail `PreconditionFailed` has the current mod revision.",
  schema: path.get.responses.default.schema,
  headers: { ETag: { ...version.ETag, description: "The current mod revision, in quotes; missing if the key does not exist." }, "Raftkv-Mod-Revision": number },
};

path.get.parameters.push(
  condition("If-None-Match", "ETags: 304 if the value is one of those."),
  condition("If-Match", "ETags: 412 unless the value is one of those."),
);
path.get.responses["304"] = { description: "The value is one that If-None-Match names.", headers: { ...version, ...who } };
path.delete.parameters.push(...headersOfWrites);
path.get.responses["412"] = path.delete.responses["412"] = preconditionFailed;
path.get.produces = ["application/octet-stream", "application/json"];
path.get.responses["200"].description =
  "The bytes of the value, as application/octet-stream; with `Accept: application/json` the GetResponse.";
path.get.responses["200"].headers = {
  ...version, ...who,
  "Raftkv-Ttl-Remaining-Ms": { ...number, description: "How long the key lives on; missing if it lives for ever or hangs on a lease." },
  "Raftkv-Lease": { ...number, description: "The lease on which the key hangs, if there is one." },
};
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
    412: preconditionFailed,
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
    { name: "ttl", description: "How long the key lives, as 500ms, 30s or 1h30m; for ever without it.", in: "query", required: false, type: "string" },
    { name: "lease", description: "The lease on which the key hangs. Not with ttl.", in: "query", required: false, type: "string", format: "uint64" },
    ...ofWrites,
    ...headersOfWrites,
  ],
  tags: path.get.tags,
};

// Watches as server-sent events are a route written by hand, too. Its parameters are the fields of WatchRequest.
const query = (name, description, type = "string", format) => ({ name, description, in: "query", required: false, type, ...(format && { format }) });
document.paths["/v1/watch"] = {
  get: {
    summary: "Streams changes of keys as server-sent events.",
    operationId: "watchEvents",
    produces: ["text/event-stream"],
    responses: {
      200: {
        description:
          "Events `put` and `delete` with an Event as data; `created`, `progress` and `initial_done` with a WatchResponse; `error` with the status that ends the watch. The id of an event is the token.",
        schema: { type: "string", format: "binary" },
      },
      410: { description: "The history is forgotten. The detail `Compacted` has the oldest revision.", schema: path.get.responses.default.schema },
      default: path.get.responses.default,
    },
    parameters: [
      query("key", "A single key."),
      query("prefix", "All keys that begin with this."),
      query("start", "The first key of a range."),
      query("end", "The key before which the range ends."),
      query("revision", "The revision of the first event; the next one by default. Keys of one shard only.", "string", "uint64"),
      query("initial", "Send the keys as they were before the first event, too.", "boolean"),
      query("prev", "Send what each change has replaced.", "boolean"),
      query("no_puts", "Leave the puts out.", "boolean"),
      query("no_deletes", "Leave the deletes out.", "boolean"),
      query("token", "The id of the last event that was seen."),
      query("progress_interval_ms", "How often to say how far the watch is; 10,000 by default.", "integer", "int64"),
      { name: "shards", description: "Only these shards.", in: "query", required: false, type: "array", items: { type: "integer", format: "int64" }, collectionFormat: "multi" },
      condition("Last-Event-ID", "The id of the last event that was seen. It goes before `token`, `revision` and `initial`."),
    ],
    tags: ["WatchService"],
  },
};
writeFileSync(file, JSON.stringify(document, null, 2) + "\n");
