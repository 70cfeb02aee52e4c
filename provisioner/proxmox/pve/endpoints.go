package pve

import (
	"fmt"
	"net/url"
	"strings"
)

// repeat says when a call that failed is made again.
type repeat int

const (
	// ifUnsent: only if the call can't have reached Proxmox.
	ifUnsent repeat = iota
	// always: the call changes nothing, or the same to the same, so that it
	// may also be repeated when its answer was lost.
	always
)

// endpoint is one call of the API.
type endpoint struct {
	method string
	path   string // {} stands for an argument
	repeat repeat
}

// Every call that this package makes, and whether it may be made twice.
//
// Calls that look harmless and are not: exec-status forgets the process once
// it has reported its end, so a repeat would lose the output; any agent call
// holds one of the node's three API workers for 3 s when the agent is deaf, and
// longer when the worker dies of the agent's answer; starting and
// deleting a machine twice may hit another one, since a freed VMID is handed
// out again at once. All measured.
var (
	getVersion         = endpoint{"GET", "/version", always}
	getNodes           = endpoint{"GET", "/nodes", always}
	getNodeStatus      = endpoint{"GET", "/nodes/{}/status", always}
	getBridges         = endpoint{"GET", "/nodes/{}/network", always}
	getClusterStatus   = endpoint{"GET", "/cluster/status", always}
	getResources       = endpoint{"GET", "/cluster/resources", always}
	getNextID          = endpoint{"GET", "/cluster/nextid", always}
	getClusterOptions  = endpoint{"GET", "/cluster/options", always}
	getTasks           = endpoint{"GET", "/nodes/{}/tasks", always}
	getTaskStatus      = endpoint{"GET", "/nodes/{}/tasks/{}/status", always}
	getTaskLog         = endpoint{"GET", "/nodes/{}/tasks/{}/log", always}
	deleteTask         = endpoint{"DELETE", "/nodes/{}/tasks/{}", always}
	getStorages        = endpoint{"GET", "/nodes/{}/storage", always}
	getStorageStatus   = endpoint{"GET", "/nodes/{}/storage/{}/status", always}
	getContent         = endpoint{"GET", "/nodes/{}/storage/{}/content", always}
	deleteContent      = endpoint{"DELETE", "/nodes/{}/storage/{}/content/{}", ifUnsent}
	postDownloadURL    = endpoint{"POST", "/nodes/{}/storage/{}/download-url", ifUnsent}
	postUpload         = endpoint{"POST", "/nodes/{}/storage/{}/upload", ifUnsent}
	getPools           = endpoint{"GET", "/pools", always}
	postPools          = endpoint{"POST", "/pools", ifUnsent}
	putPools           = endpoint{"PUT", "/pools", ifUnsent}
	deletePool         = endpoint{"DELETE", "/pools", ifUnsent}
	getQemu            = endpoint{"GET", "/nodes/{}/qemu", always}
	postQemu           = endpoint{"POST", "/nodes/{}/qemu", ifUnsent}
	deleteQemu         = endpoint{"DELETE", "/nodes/{}/qemu/{}", ifUnsent}
	postClone          = endpoint{"POST", "/nodes/{}/qemu/{}/clone", ifUnsent}
	postTemplate       = endpoint{"POST", "/nodes/{}/qemu/{}/template", ifUnsent}
	getConfig          = endpoint{"GET", "/nodes/{}/qemu/{}/config", always}
	putConfig          = endpoint{"PUT", "/nodes/{}/qemu/{}/config", ifUnsent}
	postConfig         = endpoint{"POST", "/nodes/{}/qemu/{}/config", ifUnsent}
	putResize          = endpoint{"PUT", "/nodes/{}/qemu/{}/resize", ifUnsent}
	getStatusCurrent   = endpoint{"GET", "/nodes/{}/qemu/{}/status/current", always}
	postStart          = endpoint{"POST", "/nodes/{}/qemu/{}/status/start", ifUnsent}
	postStop           = endpoint{"POST", "/nodes/{}/qemu/{}/status/stop", ifUnsent}
	postShutdown       = endpoint{"POST", "/nodes/{}/qemu/{}/status/shutdown", ifUnsent}
	postSuspend        = endpoint{"POST", "/nodes/{}/qemu/{}/status/suspend", ifUnsent}
	postResume         = endpoint{"POST", "/nodes/{}/qemu/{}/status/resume", ifUnsent}
	getSnapshots       = endpoint{"GET", "/nodes/{}/qemu/{}/snapshot", always}
	postSnapshot       = endpoint{"POST", "/nodes/{}/qemu/{}/snapshot", ifUnsent}
	postRollback       = endpoint{"POST", "/nodes/{}/qemu/{}/snapshot/{}/rollback", ifUnsent}
	deleteSnapshot     = endpoint{"DELETE", "/nodes/{}/qemu/{}/snapshot/{}", ifUnsent}
	postAgentPing      = endpoint{"POST", "/nodes/{}/qemu/{}/agent/ping", ifUnsent}
	postAgentExec      = endpoint{"POST", "/nodes/{}/qemu/{}/agent/exec", ifUnsent}
	getAgentExecStatus = endpoint{"GET", "/nodes/{}/qemu/{}/agent/exec-status", ifUnsent}
	getAgentFileRead   = endpoint{"GET", "/nodes/{}/qemu/{}/agent/file-read", ifUnsent}
	postAgentFileWrite = endpoint{"POST", "/nodes/{}/qemu/{}/agent/file-write", ifUnsent}
	getAgentInterfaces = endpoint{"GET", "/nodes/{}/qemu/{}/agent/network-get-interfaces", ifUnsent}
	getAgentOSInfo     = endpoint{"GET", "/nodes/{}/qemu/{}/agent/get-osinfo", ifUnsent}
	getPermissions     = endpoint{"GET", "/access/permissions", always}
	getUsers           = endpoint{"GET", "/access/users", always}
	postUsers          = endpoint{"POST", "/access/users", ifUnsent}
	getTokens          = endpoint{"GET", "/access/users/{}/token", always}
	postToken          = endpoint{"POST", "/access/users/{}/token/{}", ifUnsent}
	deleteToken        = endpoint{"DELETE", "/access/users/{}/token/{}", ifUnsent}
	getRoles           = endpoint{"GET", "/access/roles", always}
	postRoles          = endpoint{"POST", "/access/roles", ifUnsent}
	putRole            = endpoint{"PUT", "/access/roles/{}", always}
	getACL             = endpoint{"GET", "/access/acl", always}
	putACL             = endpoint{"PUT", "/access/acl", always}
	postTicket         = endpoint{"POST", "/access/ticket", ifUnsent}
)

// repeatable reports whether the call that failed with err may be made again.
func (e endpoint) repeatable(err error) bool {
	if e.repeat == always {
		return is(err, Unreachable, ConnectionLost, Interrupted)
	}
	return is(err, Unreachable)
}

func (e endpoint) request(args []any, params url.Values) Request {
	path := strings.Split(e.path[1:], "/")
	for i, s := range path {
		if s == "{}" {
			path[i], args = fmt.Sprint(args[0]), args[1:]
		}
	}
	return Request{Method: e.method, Path: path, Params: params}
}
