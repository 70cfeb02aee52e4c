// What every client does with agentlab, whatever its SDK. A client is
//
//   { server: {name, version}, protocol, list(): [tool], call(name, args, {signal}?): result, close() }
import assert from 'node:assert/strict';
import { test } from 'node:test';

const TOOLS = [
  'control_process', 'create_sandbox', 'destroy', 'edit_file', 'exec', 'extend_ttl',
  'list_files', 'list_sandboxes', 'read_file', 'read_process', 'resize_sandbox', 'start_sandbox', 'stop_sandbox', 'write_file',
];

/** What is there besides for clients that come over HTTP, if only by a bridge. */
const URL_TOOLS = ['download_url', 'upload_url'];

const META = 'agentlab.dev/result';

const { AGENTLAB_E2E_BIN, AGENTLAB_E2E_URL, AGENTLAB_E2E_TOKEN } = process.env;
assert.ok(AGENTLAB_E2E_BIN, 'run me through `make e2e`, which gives me an installation to play with');

/** The program that a client starts for stdio. */
export const SERVER = { command: AGENTLAB_E2E_BIN, args: ['mcp'] };

/** What a client over HTTP sends with each request. */
export const HEADERS = AGENTLAB_E2E_TOKEN ? { Authorization: `Bearer ${AGENTLAB_E2E_TOKEN}` } : {};

/**
 * The ways to the server, made by how[kind](argument): stdio always, and what goes over HTTP if it is served.
 * remote is stdio joined to HTTP by us.
 */
export function ways({ stdio, http, sse }) {
  const all = { stdio: () => stdio({ ...SERVER, env: process.env }) };
  if (AGENTLAB_E2E_URL) {
    all.http = () => http(new URL('/mcp', AGENTLAB_E2E_URL));
    all.sse = () => sse(new URL('/sse', AGENTLAB_E2E_URL));
    const env = { ...process.env, AGENTLAB_TOKEN: AGENTLAB_E2E_TOKEN ?? '' };
    all.remote = () => stdio({ ...SERVER, args: ['mcp', '--server', AGENTLAB_E2E_URL], env });
  }
  return all;
}

const text = (result) => result.content.map((block) => block.text ?? '').join('');

/** Registers the scenario as tests of the client that connect() gives. */
export function scenario(title, connect, expectProtocol) {
  test(title, async (t) => {
    const client = await connect();
    t.after(() => client.close());

    const ok = async (name, args) => {
      const result = await client.call(name, args);
      assert.ok(!result.isError, `${name}: ${text(result)}`);
      return result;
    };
    const refused = async (name, args, wanted) => {
      const result = await client.call(name, args);
      assert.equal(result.isError, true, `${name} should refuse: ${text(result)}`);
      assert.match(text(result), wanted);
    };
    const created = await ok('create_sandbox', {});
    const sandbox_id = created.structuredContent.sandbox_id;
    const exec = async (command, more = {}) => {
      const result = await ok('exec', { sandbox_id, command, ...more });
      return { text: text(result), ...result._meta[META] };
    };

    await t.test('introduces itself', () => {
      assert.equal(client.server.name, 'agentlab');
      assert.equal(client.protocol, expectProtocol);
    });

    await t.test('lists the tools', async () => {
      const tools = await client.list();
      const wanted = /-stdio$/.test(title) ? TOOLS : [...TOOLS, ...URL_TOOLS].sort();
      assert.deepEqual(tools.map((tool) => tool.name).sort(), wanted);
      for (const tool of tools) {
        assert.ok(tool.description, tool.name);
        assert.equal(tool.inputSchema.type, 'object', tool.name);
      }
      assert.deepEqual((await client.list()).map((tool) => tool.name), tools.map((tool) => tool.name));
    });

    await t.test('does the main job', async () => {
      assert.match(created.structuredContent.state, /^ready$/i);
      await ok('write_file', { sandbox_id, path: 'hello.sh', content: 'echo "hello, $1"\n' });
      const ran = await exec('sh hello.sh world; echo oops >&2; exit 3');
      assert.equal(ran.exit_code, 3);
      assert.match(ran.text, /hello, world/);
      assert.match(ran.text, /oops/);
      await ok('edit_file', { sandbox_id, path: 'hello.sh', old_string: 'hello', new_string: 'goodbye' });
      assert.match(text(await ok('read_file', { sandbox_id, path: 'hello.sh' })), /goodbye, \$1/);
      assert.match(text(await ok('list_files', { sandbox_id })), /hello\.sh/);
    });

    await t.test('keeps a process in the background', async () => {
      const { process_id, running } = await exec('read line; echo "got $line"', { wait_seconds: 0 });
      assert.equal(running, true);
      await ok('control_process', { sandbox_id, process_id, stdin: 'ping\n', close_stdin: true });
      const read = await ok('read_process', { sandbox_id, process_id, until: 'got ping' });
      assert.match(text(read), /got ping/);
    });

    await t.test('an aborted call kills its process', async () => {
      const abort = new AbortController();
      const call = client.call('exec', { sandbox_id, command: 'echo $$ > pid; exec sleep 600' }, { signal: abort.signal });
      const aborted = assert.rejects(call);
      await exec('until [ -s pid ]; do sleep 0.05; done');
      abort.abort('the user changed their mind');
      await aborted;
      const watched = await exec('while kill -0 $(cat pid) 2>/dev/null; do sleep 0.05; done; echo gone', { wait_seconds: 20 });
      assert.match(watched.text, /gone/);
    });

    await t.test('calls run side by side', async () => {
      // Each waits for all the others, so one after the other would never end.
      const n = 10;
      await exec('mkdir -p meet');
      const all = Array.from({ length: n }, (_, i) =>
        exec(`touch meet/${i}; until [ $(ls meet | wc -l) -ge ${n} ]; do sleep 0.05; done; echo I am ${i}`, { wait_seconds: 30 }));
      (await Promise.all(all)).forEach((ran, i) => assert.match(ran.text, new RegExp(`I am ${i}\\b`)));
    });

    await t.test('bounds its output', async () => {
      const ran = await exec('yes 0123456789 | head -c 3000000');
      assert.equal(ran.exit_code, 0);
      assert.ok(ran.text.length < 50_000, `${ran.text.length} characters`);
      assert.match(ran.text, /omitted/);
    });

    await t.test('explains bad input', async () => {
      const nobodys = 'sb-aaaaaaaaaaaaaaaaaaaa';
      await refused('exec', { sandbox_id: nobodys, command: 'true' }, /list_sandboxes|create_sandbox/);
      await refused('exec', { sandbox_id }, /command/);
      await refused('exec', { sandbox_id, command: 'true', comand: 'x' }, /command/);
      await refused('exec', { sandbox_id, command: `: ${'x'.repeat(200_000)}` }, /command/);
      await refused('create_sandbox', { ttl_seconds: '1h' }, /ttl_seconds/);
      await refused('read_file', { sandbox_id, path: 'a\0b' }, /path/);
      await refused('read_file', { sandbox_id, path: '/no/such/file' }, /no such|not found|does not exist/i);
      await refused('write_file', { sandbox_id, path: '/tmp', content: '' }, /directory/);
      await ok('write_file', { sandbox_id, path: 'three', content: 'a\na\na\n' });
      await refused('edit_file', { sandbox_id, path: 'three', old_string: 'a', new_string: 'b' }, /3 times/);
      await refused('read_process', { sandbox_id, process_id: 'p_999999' }, /p_/);
    });

    await t.test('destroys', async () => {
      assert.equal((await ok('destroy', { sandbox_id })).structuredContent.destroyed, true);
      assert.equal((await ok('destroy', { sandbox_id })).structuredContent.already_gone, true);
      await refused('exec', { sandbox_id, command: 'true' }, /create_sandbox/);
    });
  });
}
