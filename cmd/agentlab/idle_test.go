package main

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
)

// openDoor returns a door and what its server gets out of Accept.
func openDoor(t *testing.T) (*door, <-chan net.Conn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	d := &door{Listener: ln}
	in := make(chan net.Conn)
	go func() {
		for {
			c, err := d.Accept()
			if err != nil {
				close(in)
				return
			}
			in <- c
		}
	}()
	return d, in
}

func (d *door) knock(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDoorStaysOpenForWhoIsBetweenAcceptAndBeingCounted(t *testing.T) {
	d, in := openDoor(t)
	d.knock(t)
	// The server has a client in its hands, which it has not yet received: it
	// is not in Accept until it was.
	for d.waitingNow() {
	}
	if d.shutIf(func() bool { return true }) {
		t.Error("shut on a client that is not counted yet")
	}
	<-in
	for !d.waitingNow() {
	}
	if d.shutIf(func() bool { return false }) {
		t.Error("shut although in use")
	}
	if !d.shutIf(func() bool { return true }) {
		t.Error("not shut although unused")
	}
}

func TestShutDoorGreetsNobody(t *testing.T) {
	d, in := openDoor(t)
	for !d.waitingNow() {
	}
	if !d.shutIf(func() bool { return true }) {
		t.Fatal("not shut")
	}
	late := d.knock(t)
	if n, err := late.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("late client read %d bytes, %v; want the end", n, err)
	}
	d.Close()
	if c, ok := <-in; ok {
		t.Errorf("the server was given %v", c)
	}
}

func (d *door) waitingNow() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting
}
