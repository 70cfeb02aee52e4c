package local

import (
	"cmp"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Paths inside a machine.
const (
	guestShared = "/run/agentlab"       // the directory shared with the host
	guestBinary = "/run/agentlab-guest" // the first process
)

// Memory file systems that gVisor would let grow to half the host's memory.
// What is in them counts as the machine's memory.
const (
	runSize = "size=16m"
	shmSize = "size=64m"
)

// capabilities are those of root in a container as Docker gives them, and what
// agentlab-guest needs before it drops it: SYS_ADMIN to hide the shared
// directory and to set the limit of processes.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
	"CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
}

// ociSpec returns the configuration of the machine whose bundle is at dir.
func (st *state) ociSpec(root rootfs, spec provisioner.Spec, dir, papers string) *specs.Spec {
	// Of all sandboxes and before the rest of the host: the kernel's OOM
	// killer is the last wall, and must not choose a neighbour.
	killFirst := 1000
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: hostname(spec),
		Root:     &specs.Root{Path: root.dir},
		Mounts:   st.mounts(root, dir),
		Process: &specs.Process{
			Args:         []string{guestBinary, "serve", guestShared},
			Env:          []string{"PATH=" + guestPath, "HOME=" + guestHome, "LANG=C.UTF-8"},
			Cwd:          guestHome, // runsc makes it where the root has none
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 65536, Hard: 65536},
				{Type: "RLIMIT_CORE"},
			},
			OOMScoreAdj: &killFirst,
		},
		Linux:       st.linux(spec),
		Annotations: map[string]string{papersAnnotation: papers, osAnnotation: root.os},
	}
}

// hostname returns the name that a machine gives itself.
func hostname(spec provisioner.Spec) string { return cmp.Or(spec.Hostname, spec.Papers.Sandbox) }

const guestPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// mounts returns what is mounted over the root. runsc's file server makes
// missing mount points in the lower directory itself, which is shared and may
// be a user's. So /run is first covered by a directory of ours that has them;
// the tmpfs over it is the guest's own.
func (st *state) mounts(root rootfs, dir string) []specs.Mount {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{shmSize, "mode=1777"}},
		{Destination: "/run", Type: "bind", Source: root.run, Options: []string{"ro"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{runSize, "mode=755"}},
		{Destination: guestShared, Type: "bind", Source: filepath.Join(dir, runDir), Options: []string{"rw"}},
		{Destination: guestBinary, Type: "bind", Source: root.guest, Options: []string{"ro"}},
	}
	if root.tmpfs {
		mounts = append(mounts, specs.Mount{
			Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{shmSize, "mode=1777"},
		})
	}
	for _, path := range root.binds {
		mounts = append(mounts, specs.Mount{Destination: path, Type: "bind", Source: path, Options: []string{"rbind", "ro"}})
	}
	return mounts
}

// linux returns namespaces and host limits. Memory and processes have their
// limit inside, where reaching it kills one command; the wall around the
// sandbox is a bit further out, since reaching that kills the machine.
func (st *state) linux(spec provisioner.Spec) *specs.Linux {
	l := &specs.Linux{CgroupsPath: "/" + cgroupParent + "/" + st.cgroupName(spec.Papers.Sandbox), Resources: &specs.LinuxResources{}}
	for _, ns := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace,
	} {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: ns})
	}
	if !st.rootless() {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		l.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: nobody, Size: 1}}
		l.GIDMappings = l.UIDMappings
	}
	if !st.cgroups {
		return l
	}
	if spec.MemoryMB > 0 {
		wall := memoryWall(spec.MemoryMB)
		l.Resources.Memory = &specs.LinuxMemory{Limit: &wall}
	}
	if spec.MaxProcs > 0 {
		wall := int64(2*spec.MaxProcs + 1024)
		l.Resources.Pids = &specs.LinuxPids{Limit: &wall}
	}
	if spec.Cores > 0 {
		period := uint64(100_000)
		quota := int64(spec.Cores) * int64(period)
		l.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	return l
}

// memoryWall returns, in bytes, where the host stops a machine whose own limit
// is mb: an eighth further, and room for gVisor's own needs.
func memoryWall(mb int) int64 { return int64(mb+mb/8+192) << 20 }

// runscFlags returns the arguments of runsc before its command.
func (st *state) runscFlags(t tools, dir string, diskMB int) []string {
	// The writable layer is in a file without a name in the bundle. In memory
	// it would count as the machine's, and fill it; here a full host disk is
	// ENOSPC in the guest and nothing worse.
	overlay := "--overlay2=root:dir=" + filepath.Join(dir, diskDir)
	if diskMB > 0 {
		overlay += ",size=" + strconv.Itoa(diskMB) + "m"
	}
	flags := []string{
		"--root=" + st.runscDir(),
		"--platform=" + t.platform,
		"--network=none",
		"--host-uds=create",
		"--cpu-num-from-quota",
		overlay,
	}
	if st.rootless() {
		flags = append(flags, "--rootless")
	}
	if !st.cgroups {
		flags = append(flags, "--ignore-cgroups")
	}
	return flags
}
