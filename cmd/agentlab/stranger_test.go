package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// strangerMain is the command stranger of the scripts: another user of the
// host, which only root can play.
//
//	stranger exec PROGRAM...  runs a program
//	stranger dial GLOB        connects to a socket and prints what it is told
//	stranger listen PATH      listens in the place of a daemon, for one client
func strangerMain() {
	flag.Parse()
	if os.Geteuid() == 0 {
		asStranger()
	}
	var err error
	switch what, arg := flag.Arg(0), flag.Arg(1); what {
	case "exec":
		cmd := exec.Command(arg, flag.Args()[2:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		err = cmd.Run()
	case "dial":
		err = strangerDials(arg)
	case "listen":
		err = strangerListens(arg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// asStranger runs this program once more as another user, and ends.
func asStranger() {
	const uid = 54321
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = "stranger"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if cmd.Run() != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func strangerDials(glob string) error {
	path := glob
	if found, _ := filepath.Glob(glob); len(found) == 1 {
		path = found[0]
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	told, err := io.ReadAll(conn)
	fmt.Printf("told %q\n", told)
	return err
}

// strangerListens plays a daemon until its first client has gone, and prints
// what that client told it.
func strangerListens(path string) error {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer ln.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(conn, "agentlab %s\n", version()) // who checks first is gone by now
	told, _ := io.ReadAll(conn)                          // and may have reset the connection
	fmt.Printf("told %q\n", told)
	return nil
}
