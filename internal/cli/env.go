// Package cli is cowl's command line: LVM2's commands with LVM2's options,
// messages and exit codes, and a few of cowl's own. One file holds one verb:
// its options, its run function, its output. A new verb is a function that
// returns a command, in a file of its own, and a line in verbs.go.
//
// Answers go to standard output, and what there is to say about them to
// standard error. Verbs see volume groups through package manager and do not
// know who runs them.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8/cwriter"
	"golang.org/x/term"

	"cowl/internal/freeze"
)

// Env is what a command sees of the world. Tests make their own.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	Zone           *time.Location
	// Interactive: questions can be asked. Progress: somebody watches stderr.
	Interactive, Progress bool
	// AskPassword asks for a password without showing it; nil: cannot.
	AskPassword func(prompt string) (string, error)
	// Executable is the path of this program, to start the daemon with.
	Executable string
}

// System returns the process's own environment.
func System() *Env {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return &Env{
		AskPassword: askPassword,
		Stdin:       os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Now: time.Now, Zone: time.Local,
		Interactive: cwriter.IsTerminal(int(os.Stdin.Fd())) && cwriter.IsTerminal(int(os.Stderr.Fd())),
		Progress:    cwriter.IsTerminal(int(os.Stderr.Fd())),
		Executable:  self,
	}
}

// askPassword asks on the terminal.
func askPassword(prompt string) (string, error) {
	fmt.Fprint(os.Stderr, prompt)
	text, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	return string(text), err
}

// Main runs the command line (without the program's name) and returns the
// exit code. Interrupting the context makes the command clean up and end.
func Main(ctx context.Context, env *Env, args []string) int {
	if freeze.Guard(args) {
		return exitOK
	}
	a := &app{Env: env}
	err := a.execute(ctx, args)
	return a.finish(err)
}
