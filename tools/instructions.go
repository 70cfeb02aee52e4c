package tools

// Instructions is what a server tells a model about all tools together. Some
// clients show a model no more than this and the tools' names, so it has to
// carry the way of working. It has at most 1,500 characters.
const Instructions = `AgentLab gives you disposable Linux machines (sandboxes). Use one to run code, builds, tests or anything you would not run on the user's own machine; work inside it with these tools and not with the host's.

create_sandbox -> exec, read_file, write_file, edit_file, list_files -> destroy when you are done. Keep the sandbox_id: it stays valid after a reconnect or restart until expires_at, when the sandbox and all its files are gone; extend_ttl moves that. list_sandboxes finds yours again.

You are root in the sandbox. Its network is what the profile says; none means that nothing can be downloaded. Files stay in it: pass paths between commands rather than contents. exec runs a shell command and waits up to wait_seconds; what takes longer goes on, and read_process gets its output and exit code by process_id (it blocks, so don't poll). For servers and watchers use exec with wait_seconds=0, read_process with until, control_process for input and signals. timeout_seconds is when a process is killed. A non-zero exit code is a normal result.`
