package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// transcript prints what happens, with the time since the start.
type transcript struct {
	w      io.Writer
	colour bool
	start  time.Time
	titles int
}

// newTranscript prints to f, in colour if f is a terminal that can.
func newTranscript(f *os.File) *transcript {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	plain := os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	return &transcript{w: f, colour: err == nil && !plain, start: time.Now()}
}

// Select graphic rendition, as ECMA-48 numbers it.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (t *transcript) paint(sgr, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

func (t *transcript) title(s string) {
	t.titles++
	fmt.Fprintf(t.w, "\n%s\n", t.paint(bold, fmt.Sprintf("%d. %s", t.titles, s)))
}

// step prints that something was done, and what came of it.
func (t *transcript) step(what, result string) {
	t.line(green, what, result)
}

func (t *transcript) failed(err error) {
	t.line(red, "FAILED", err.Error())
}

func (t *transcript) line(sgr, what, result string) {
	first, rest, _ := strings.Cut(strings.TrimRight(result, "\n"), "\n")
	at := t.paint(dim, fmt.Sprintf("%6.2f s", time.Since(t.start).Seconds()))
	fmt.Fprintf(t.w, "%s  %s  %s\n", at, t.paint(sgr, fmt.Sprintf("%-15s", what)), first)
	if rest != "" {
		t.text(rest)
	}
}

// text prints lines under the last step.
func (t *transcript) text(s string) {
	for line := range strings.Lines(strings.TrimRight(s, "\n")) {
		fmt.Fprintf(t.w, "%27s%s %s\n", "", t.paint(cyan, "│"), strings.TrimRight(line, "\n"))
	}
}

func (t *transcript) done() {
	fmt.Fprintf(t.w, "\nAll as expected, in %.1f s.\n", time.Since(t.start).Seconds())
}
