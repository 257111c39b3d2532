package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cowl/internal/cli/fields"
	"cowl/internal/errs"
	"cowl/internal/manager"
)

// app is one run of the program: the environment and the options that all
// verbs have.
type app struct {
	*Env

	verbose, quiet int
	yes, test      bool
	devices        []string
	devicesFile    string
	backend        option[manager.Backend]
	rundir         string       // of serve only
	statedir       string       // of serve only
	log            *slog.Logger // of serve only; nil is none

	command    string          // the command line, for the metadata's description
	warned     map[string]bool // warnings that are given once only
	warnings   *sayings        // all that were given; nil: nobody asks
	complaints *sayings        // the same of errors that were said
	dryRun     bool            // that it is a test was said

	// another runs a command line as if it were the program's: jobs consist of
	// those.
	another func(ctx context.Context, env *Env, args []string) (said outcome, err error)

	// source replaces what reports are made of, in tests.
	source func(context.Context) (*fields.Data, error)
}

// outcome is what a command has told people by the way.
type outcome struct{ warnings, complaints []string }

// execute runs the command that the arguments name.
func (a *app) execute(ctx context.Context, args []string) error {
	a.another = func(ctx context.Context, env *Env, args []string) (outcome, error) {
		b := &app{Env: env, warnings: &sayings{}, complaints: &sayings{}}
		err := b.execute(ctx, args)
		return outcome{b.warnings.all(), b.complaints.all()}, err
	}
	root := a.root()
	a.warned = map[string]bool{}
	a.command = strings.Join(append([]string{"cowl"}, args...), " ")
	args, err := expand(root, args)
	if err != nil {
		return err
	}
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cowl",
		Short: "Logical volumes, snapshots and backups in user space",
		Long: `cowl runs LVM2's volume groups in user space: no root, no device-mapper, no VM.
The commands, options and output are LVM's; the disks work under the kernel's
LVM as well. A group lives in image files, partitions or disks.`,
		Example: `  truncate -s 1G disk.img
  cowl pvcreate disk.img
  cowl vgcreate vg disk.img
  cowl lvcreate -L 500M -n data vg
  cowl vgchange -ay vg                     # now vg/data can be used
  cowl lvcreate -s -L 100M -n before vg/data
  cowl lvs`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = false
	a.commonFlags(root.PersistentFlags())
	for _, v := range verbs {
		cmd := v(a)
		cmd.DisableFlagsInUseLine = true
		a.complete(cmd)
		root.AddCommand(cmd)
	}
	root.AddGroup(&cobra.Group{ID: groupLVM, Title: "LVM's commands:"}, &cobra.Group{ID: groupOwn, Title: "cowl's own:"})
	return root
}

// Groups of commands in the help.
const (
	groupLVM = "lvm"
	groupOwn = "own"
)

func (a *app) commonFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.CountVarP(&a.verbose, "verbose", "v", "show more: columns in reports, volumes and PVs in vgdisplay")
	f.CountVarP(&a.quiet, "quiet", "q", "twice: say nothing but errors, and answer every question with no")
	f.BoolVarP(&a.yes, "yes", "y", false, "answer every question with yes")
	f.BoolVarP(&a.test, "test", "t", false, "change nothing, and say what would be done")
	f.StringSliceVar(&a.devices, "devices", nil, "use these `files` and devices only (also $COWL_DEVICES)")
	f.StringVar(&a.devicesFile, "devicesfile", "", "use the devices that this `file` lists")
	a.backend = option[manager.Backend]{kind: "auto|host|cowl", parse: manager.ParseBackend}
	flagOf(f, &a.backend, "backend", "", "who runs groups: the host's LVM or cowl (the host's what the kernel has active)")
}

// noCommand is the error for a verb that does not exist, below the root or
// below another verb.
func noCommand(parent *cobra.Command, name string) error {
	path := strings.Fields(parent.CommandPath())[1:]
	err := coded{errs.E(errs.Usage, "No such command '%s'.  Try '%s'.",
		strings.Join(append(path, name), " "), strings.Join(append([]string{"cowl", "help"}, path...), " ")), exitNoCommand}
	parent.SuggestionsMinimumDistance = 2
	if near := parent.SuggestionsFor(name); len(near) > 0 {
		return errs.WithHint(err, "Did you mean '%s'?", strings.Join(near, "' or '"))
	}
	return err
}

// flagError turns what pflag found wrong into LVM's words.
func flagError(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		bad     *pflag.InvalidValueError
		text    = err.Error()
	)
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		text = fmt.Sprintf("%s: unrecognized option '--%s'", cmd.Name(), unknown.GetSpecifiedName())
	case errors.As(err, &unknown):
		text = fmt.Sprintf("%s: invalid option -- '%s'", cmd.Name(), unknown.GetSpecifiedName())
	case errors.As(err, &missing) && missing.GetSpecifiedShortnames() == "":
		text = fmt.Sprintf("%s: option '--%s' requires an argument", cmd.Name(), missing.GetSpecifiedName())
	case errors.As(err, &missing):
		text = fmt.Sprintf("%s: option requires an argument -- '%s'", cmd.Name(), missing.GetSpecifiedName())
	case errors.As(err, &bad) && errors.Is(err, errRepeated):
		text = fmt.Sprintf("Option %s may not be repeated.", flagName(bad.GetFlag()))
	case errors.As(err, &bad):
		text = fmt.Sprintf("Invalid argument for --%s: %s", bad.GetFlag().Name, bad.GetValue())
		if cause := errors.Unwrap(bad); errs.Is(cause, errs.Usage) {
			text = cause.Error() + "\n" + text
		}
	}
	return hintHelp(cmd, errs.E(errs.Usage, "%s\nError during parsing of command line.", text))
}

// flagName is an option as LVM names it: -n/--name.
func flagName(f *pflag.Flag) string {
	if f.Shorthand != "" {
		return "-" + f.Shorthand + "/--" + f.Name
	}
	return "--" + f.Name
}

// hintHelp adds where to read on.
func hintHelp(cmd *cobra.Command, err error) error {
	return errs.WithHint(err, "Run `%s --help' for more information.", cmd.CommandPath())
}

// usage is an error about the command line, found by a verb.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return hintHelp(cmd, errs.E(errs.Usage, format, args...))
}

// usageError adds the hint to an error about the command line, and leaves
// others alone.
func usageError(cmd *cobra.Command, err error) error {
	if errs.Is(err, errs.Usage) && errs.HintOf(err) == "" {
		return hintHelp(cmd, err)
	}
	return err
}

// noSyntax is the error for arguments that make no command.
func noSyntax(cmd *cobra.Command) error {
	return errs.E(errs.Usage, "No command with matching syntax recognised.  Run '%s --help' for more information.\nCorrect command syntax is:\n%s",
		cmd.CommandPath(), cmd.UseLine())
}

// atLeast wants n positional arguments or more.
func atLeast(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return noSyntax(cmd)
		}
		return nil
	}
}

// exactly wants n positional arguments.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return noSyntax(cmd)
		}
		return nil
	}
}

// noArgs wants no positional arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return noSyntax(cmd)
	}
	return nil
}

// expand completes long options that are abbreviated, as getopt does: any
// beginning that fits one option only stands for it.
func expand(root *cobra.Command, args []string) ([]string, error) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	cmd, rest, err := root.Find(args)
	if err != nil {
		return args, nil
	}
	// cobra would complain of the verb's options first
	if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && !strings.HasPrefix(rest[0], "__") {
		return nil, noCommand(cmd, rest[0])
	}
	if cmd == root {
		return args, nil
	}
	out := slices.Clone(args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !strings.HasPrefix(arg, "--") || name == "" || known(cmd, name) {
			continue
		}
		fits := beginningWith(cmd, name)
		if len(fits) > 1 {
			return nil, hintHelp(cmd, errs.E(errs.Usage, "%s: option '--%s' is ambiguous; possibilities: '--%s'\nError during parsing of command line.",
				cmd.Name(), name, strings.Join(fits, "' '--")))
		}
		if len(fits) == 1 {
			out[i] = "--" + fits[0]
			if hasValue {
				out[i] += "=" + value
			}
		}
	}
	return out, nil
}

func known(cmd *cobra.Command, name string) bool {
	return name == "help" || cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil
}

func beginningWith(cmd *cobra.Command, prefix string) []string {
	var names []string
	add := func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, prefix) {
			names = append(names, f.Name)
		}
	}
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	slices.Sort(names)
	return slices.Compact(names)
}
