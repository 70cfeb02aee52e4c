// The TypeScript SDK before 2026: most clients in the field.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { LATEST_PROTOCOL_VERSION } from '@modelcontextprotocol/sdk/types.js';

import { SERVER, scenario } from './scenario.mjs';

async function connect() {
  const client = new Client({ name: 'e2e-sdk-v1', version: '1.0.0' });
  const transport = new StdioClientTransport({ ...SERVER, env: process.env });
  let protocol; // this SDK tells it only to transports that ask
  transport.setProtocolVersion = (version) => { protocol = version; };
  await client.connect(transport);
  return {
    server: client.getServerVersion(),
    protocol,
    list: async () => (await client.listTools()).tools,
    call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
    close: () => client.close(),
  };
}

scenario('sdk-v1', connect, LATEST_PROTOCOL_VERSION);
