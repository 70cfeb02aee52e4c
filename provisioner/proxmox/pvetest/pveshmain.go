package pvetest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
)

// pveshEnv names the socket of the server for which PveshMain is a stand-in.
const pveshEnv = "PVETEST_PVESH"

type pveshCall struct {
	Node      string
	Args, Env []string
	UID       int
}

// The frames a pvesh gets back.
const (
	frameExit = iota
	frameOut
	frameErr
)

// ServePvesh serves [PveshMain] for a node on a Unix socket, and returns the
// environment variable that tells it where.
func (s *Server) ServePvesh(node, socket string) (string, error) {
	s.start()
	ln, err := net.Listen("unix", socket) //nolint:noctx // closed with the server
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.shells = append(s.shells, func() { _ = ln.Close() })
	s.mu.Unlock()
	s.work.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { s.servePvesh(node, conn) })
		}
	})
	return pveshEnv + "=" + socket, nil
}

// Shell fills dir with stand-ins for the programs pvesh and pveversion of a
// node, and returns the environment in which a shell finds them. The TestMain of
// the test must return [PveshMain] when it is called by the name of pvesh.
func (s *Server) Shell(node, dir string) (env []string, err error) {
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "pvesh"))
	}
	if err != nil {
		return nil, err
	}
	version := "#!/bin/sh\necho pve-manager/" + s.version() + "/0123456789abcdef\n"
	if err := os.WriteFile(filepath.Join(dir, "pveversion"), []byte(version), 0o700); err != nil { //nolint:gosec // a program
		return nil, err
	}
	socket, err := s.ServePvesh(node, filepath.Join(dir, "pvesh.sock"))
	return append(os.Environ(), socket, "PATH="+dir+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8"), err
}

// servePvesh runs one command. A byte from the other side is a SIGTERM to it,
// the end of the connection its death.
func (s *Server) servePvesh(node string, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(conn)
	line, err := r.ReadBytes('\n')
	var req pveshCall
	if err != nil || json.Unmarshal(line, &req) != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	s.work.Go(func() {
		if _, err := r.ReadByte(); err == nil {
			cancel(ErrTerminated)
			return
		}
		cancel(errKilled)
	})
	var mu sync.Mutex
	code := 255
	if req.UID != 0 && req.UID != os.Getuid() { // whoever runs the simulator is root of its nodes
		_, _ = io.WriteString(&frames{conn, &mu, frameErr}, "please run as root\n")
	} else {
		code = s.Pvesh(ctx, node, req.Args, req.Env, &frames{conn, &mu, frameOut}, &frames{conn, &mu, frameErr})
	}
	_, _ = (&frames{conn, &mu, frameExit}).Write([]byte{byte(code)})
}

// frames writes a stream in pieces with their kind and length.
type frames struct {
	w    io.Writer
	mu   *sync.Mutex
	kind byte
}

func (f *frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{f.kind}, uint32(len(p))) //nolint:gosec // pieces are small
	if _, err := f.w.Write(append(head, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// PveshMain is a main that stands in for /usr/bin/pvesh: it runs its arguments
// on the server whose socket the environment names, and returns the exit code.
// A test makes a command of it, for testscript or behind an SSH server.
func PveshMain() int {
	conn, err := net.Dial("unix", os.Getenv(pveshEnv)) //nolint:noctx // a local socket
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "pvesh:", err)
		return 255
	}
	defer func() { _ = conn.Close() }()
	req := encode(pveshCall{Args: os.Args[1:], Env: os.Environ(), UID: os.Getuid()})
	if _, err := conn.Write(append(req, '\n')); err != nil {
		return 255
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		_, _ = conn.Write([]byte{'T'})
	}()
	return copyFrames(conn)
}

func copyFrames(r io.Reader) int {
	for {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return 255
		}
		n := int64(binary.BigEndian.Uint32(head[1:]))
		var err error
		switch head[0] {
		case frameOut:
			_, err = io.CopyN(os.Stdout, r, n)
		case frameErr:
			_, err = io.CopyN(os.Stderr, r, n)
		default:
			code := make([]byte, 1)
			_, _ = io.ReadFull(r, code)
			return int(code[0])
		}
		if err != nil {
			return 1
		}
	}
}
