package main

import (
	"testing"

	"github.com/spf13/cobra"
)

// leaf is what the walk has to be told of a command. $BOX is a sandbox, $DOOMED one
// that may go, $N another number each time, and $SERVER a server that takes
// connections and says nothing.
type leaf struct {
	args  string // with which it does what it is for
	code  int    // its exit code then, with a daemon that has $BOX
	alone int    // and where no daemon runs and none may be started
	wide  string // why its lines may be wider than a terminal
	told  string // what it says if nobody reads its output; most say nothing
	// half is how it comes to be half-way when it is interrupted: it waits for the
	// daemon, for $SERVER, for who opens a FIFO or, with a name, at a fail-point.
	half     string
	halfArgs string // with which it does; empty is args
	never    string // why it is never half-way
}

// How a command comes to be half-way.
const (
	atDaemon = "daemon"
	atServer = "server"
	atFIFO   = "fifo"
)

// leaves are the commands that do something, by their names.
func leaves() map[string]leaf {
	const (
		none    = 5   // no daemon
		refused = 7   // not possible as things are
		notRun  = 125 // of exec and ssh
		text    = "it is text, which a terminal wraps"
		short   = "it waits for nobody"
	)
	admin := "--api-url $SERVER --tls-fingerprint 00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00 --password-file "
	return map[string]leaf{
		"audit verify":          {code: 0, alone: 1, wide: text, never: short},
		"completion bash":       {wide: text, never: short},
		"completion fish":       {wide: text, never: short},
		"completion powershell": {wide: text, never: short},
		"completion zsh":        {wide: text, never: short},
		"config check":          {wide: text, never: short},
		"doctor":                {wide: text, half: atServer},
		"events":                {alone: none, half: atDaemon},
		"help":                  {wide: text, never: short},
		"man":                   {args: "man", never: short},
		"mcp":                   {alone: none, told: "nobody reads the answers any more", half: atDaemon},
		"profile list":          {never: short},
		"profile show":          {args: "default", wide: text, never: short},
		"profile validate":      {wide: text, never: short},
		"proxmox setup":         {wide: text, half: atServer, halfArgs: "--apply " + admin + "password"},
		"sandbox cp":            {args: "file $BOX:", alone: none, half: atDaemon},
		"sandbox destroy":       {args: "$DOOMED", alone: none, half: atDaemon},
		"sandbox exec":          {args: "$BOX -- echo hi", alone: notRun, half: atDaemon},
		"sandbox extend":        {args: "$BOX", alone: none, half: atDaemon, wide: text},
		"sandbox list":          {alone: none, half: atDaemon},
		"sandbox logs":          {args: "$BOX p_1", alone: none, half: atDaemon},
		"sandbox new":           {args: "--name walked-$N", alone: none, half: atDaemon},
		"sandbox pause":         {args: "$BOX", alone: none, half: atDaemon},
		"sandbox prune":         {alone: none, half: atDaemon},
		"sandbox resize":        {args: "$BOX --cpu 1", code: refused, alone: none, half: atDaemon, wide: text},
		"sandbox resume":        {args: "$BOX", alone: none, half: atDaemon},
		"sandbox show":          {args: "$BOX", alone: none, half: atDaemon},
		"sandbox ssh":           {args: "$BOX -- echo hi", alone: notRun, half: atDaemon},
		"sandbox start":         {args: "$BOX", alone: none, half: atDaemon},
		"sandbox stop":          {args: "$BOX", code: refused, alone: none, half: atDaemon, wide: text},
		"serve":                 {code: 3, alone: 1, wide: text, never: "it runs until it is interrupted, which is how it ends"},
		"status":                {alone: none, half: atDaemon},
		"store backup":          {args: "state/backup-$N", alone: 1, wide: text, half: "backup copy database before #1"},
		"store rebuild":         {code: 3, wide: text, half: "store inherit before #1"},
		"template build":        {code: 1, alone: 1, wide: text, half: atFIFO, halfArgs: admin + "fifo"},
		"token create":          {args: "walker-$N", alone: none, wide: text, told: "the token, which is revoked again", half: atDaemon, halfArgs: "--out state/backup-token walker-$N"},
		"token list":            {alone: none, half: atDaemon},
		"token revoke":          {args: "walked", alone: none, wide: text, half: atDaemon},
		"version":               {never: short},
	}
}

// command is one of the program.
type command struct {
	name string // such as "sandbox new"
	cmd  *cobra.Command
	leaf // of one that does something
}

// walkTree returns all commands of the program. One that does something and is not in
// the table is an error.
func walkTree(fatalf func(format string, args ...any)) (all []command) {
	root := newRootCommand()
	root.InitDefaultHelpCmd()
	table := leaves()
	var visit func(cmd *cobra.Command, name string)
	visit = func(cmd *cobra.Command, name string) {
		known, ok := table[name]
		if !cmd.HasSubCommands() && !ok {
			fatalf("the command %q is new: say in leaves how it is tried", name)
		}
		delete(table, name)
		all = append(all, command{name, cmd, known})
		for _, sub := range cmd.Commands() {
			visit(sub, map[bool]string{true: sub.Name(), false: name + " " + sub.Name()}[name == ""])
		}
	}
	visit(root, "")
	for name := range table {
		fatalf("there is no command %q any more", name)
	}
	return all
}

// doing are the commands that do something.
func doing(fatalf func(format string, args ...any)) (some []command) {
	for _, c := range walkTree(fatalf) {
		if !c.cmd.HasSubCommands() {
			some = append(some, c)
		}
	}
	return some
}

// TestUsage gives each command what it does not take: it says so, and how it is used,
// with exit code 2, and does nothing.
func TestUsage(t *testing.T) {
	t.Setenv("AGENTLAB_STARTED_BY", "nobody")
	many := []string{"x", "x", "x", "x", "x", "x", "x", "x", "x"}
	for _, c := range walkTree(t.Fatalf) {
		tries := map[string][]string{"unknown flag: --bogus": {"--bogus"}}
		if c.cmd.HasSubCommands() {
			tries[`unknown command "bogus" for "`+c.cmd.CommandPath()+`"`] = []string{"bogus"}
		}
		c.cmd.InitDefaultHelpFlag()
		for _, given := range [][]string{nil, many} {
			if err := c.cmd.ValidateArgs(given); err != nil {
				tries[err.Error()] = given
			}
		}
		for want, given := range tries {
			t.Run(c.cmd.CommandPath()+" "+want, func(t *testing.T) { refusesUsage(t, c, given, want) })
		}
	}
}
