package qemuguest

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// minMemory in MiB is less than what the image boots with.
const minMemory = 384

// hardwarePatience is how long a kernel may take to say its first words, which
// with hardware virtualisation is a fraction of a second.
const hardwarePatience = 10 * time.Second

// accelerator is how QEMU runs the guest's processors.
func (g *Guests) accelerator(kernel string) []string {
	g.probe.Do(func() { g.hardware = hardware(kernel) })
	if g.hardware {
		return []string{"-accel", "kvm"}
	}
	return []string{"-accel", "tcg,thread=multi,tb-size=256"}
}

// hardware says whether KVM runs a kernel. That /dev/kvm can be opened does not
// mean so: within another virtual machine it may fail in any later step.
func hardware(kernel string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), hardwarePatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", //nolint:gosec // our own file
		"-accel", "kvm", "-cpu", "max", "-m", "256", "-no-reboot", "-kernel", kernel, "-append", "console=ttyS0 earlyprintk=serial panic=-1", "-serial", "stdio")
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return false
	}
	alive := false
	for lines := bufio.NewScanner(out); !alive && lines.Scan(); {
		alive = strings.Contains(lines.Text(), "Linux version")
	}
	cancel()
	_ = cmd.Wait() // it was killed
	return alive
}

// arguments are QEMU's. 3 and 4 are the agent's channel and the monitor.
func (m *machine) arguments(accelerator []string) []string {
	conf := m.spec.Config
	args := append(accelerator,
		"-name", m.spec.Name, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-cpu", "max",
		"-smp", strconv.Itoa(max(2, number(conf["cores"], 1))), "-m", strconv.Itoa(max(number(conf["memory"], 512), minMemory)),
		"-kernel", m.image.Kernel, "-initrd", m.image.Initrd, "-append", m.kernelArguments(),
		"-drive", "if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file="+m.disk, "-device", "virtio-blk-pci,drive=disk",
		"-drive", "if=none,id=drive,format=raw,readonly=on,file="+m.drive, "-device", "virtio-blk-pci,drive=drive",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,fd=3", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-device", "virtio-rng-pci", "-serial", "file:"+m.log,
		"-chardev", "socket,id=monitor,fd=4", "-mon", "chardev=monitor,mode=control",
	)
	if mac := macOf.FindStringSubmatch(conf["net0"]); mac != nil {
		args = append(args, "-device", "virtio-net-pci,netdev=net0,mac="+mac[1],
			"-netdev", fmt.Sprintf("user,id=net0,net=%s,hostfwd=tcp:%s-:22", m.network, m.reached))
	}
	return args
}

// kernelArguments: an emulated clock is steady though Linux doubts it, and the
// one it would take instead is slow.
func (m *machine) kernelArguments() string {
	args := "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 " +
		"mitigations=off random.trust_cpu=on no_timer_check tsc=reliable clocksource=tsc " + m.image.Arguments
	if m.mirror != 0 {
		args += fmt.Sprintf(" mirror=http://%s:%d/", m.at(2), m.mirror)
	}
	return args
}

func number(text string, otherwise int) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return otherwise
}
