// The TypeScript SDK before 2026: most clients in the field.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { LATEST_PROTOCOL_VERSION } from '@modelcontextprotocol/sdk/types.js';

import { HEADERS, scenario, ways } from './scenario.mjs';

const connect = (way) => async () => {
  const client = new Client({ name: 'e2e-sdk-v1', version: '1.0.0' });
  const transport = way();
  let protocol; // this SDK tells it only to transports
  const tell = transport.setProtocolVersion?.bind(transport);
  transport.setProtocolVersion = (version) => { protocol = version; tell?.(version); };
  await client.connect(transport);
  return {
    server: client.getServerVersion(),
    protocol,
    list: async () => (await client.listTools()).tools,
    call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
    close: () => client.close(),
  };
};

const all = ways({
  stdio: (server) => new StdioClientTransport(server),
  http: (url) => new StreamableHTTPClientTransport(url, { requestInit: { headers: HEADERS } }),
  sse: (url) => new SSEClientTransport(url, { requestInit: { headers: HEADERS } }),
});
for (const [kind, way] of Object.entries(all)) scenario(`sdk-v1-${kind}`, connect(way), LATEST_PROTOCOL_VERSION);
