// Package qemuguest makes the guests of a simulated Proxmox VE real: machines
// that QEMU runs, booted from a Debian image that is built here, with its own
// kernel, qemu-guest-agent, sshd and cloud-init.
//
//	image, err := qemuguest.Cached(ctx) // built once; then it is there
//	guests := &qemuguest.Guests{Image: image, Dir: dir}
//	srv := &pvetest.Server{NewGuest: guests.New, Destroyed: guests.Destroyed, Patience: 20 * time.Second}
//
// A template can be built of such a machine, too: its disk is then an image
// without an agent, which cloud-init installs from a web server of the test, and
// clones of it have what was written to it.
//
//	image, err := qemuguest.CachedStock(ctx)
//	guests := &qemuguest.Guests{Stock: image, Dir: dir, Mirror: port}
//
// A guest has the hardware that its VM's configuration says as far as the
// simulator's clients can tell: cores, memory, a network card like net0 or none,
// the cloud-init drive, the agent's channel. Its disk has 2 GiB whatever the
// configuration says. Its network is its own, with QEMU's DHCP server; it reaches
// out, and its sshd is reached through [Guests.Dial]. An address that is not from
// DHCP is not reached.
//
// Without usable hardware virtualisation, which is tried by booting the kernel,
// QEMU emulates: a boot then takes some 40 s of processor time until the agent
// answers, two thirds of it in cloud-init; the first boot of a stock image,
// which installs packages, takes two or three times as much.
package qemuguest
