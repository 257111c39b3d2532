package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cowl/internal/backup/jobfile"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/errs"
)

// A job is a number of commands that a person could type: backup, forget,
// verify, drill. They are run as such, so that a job can do nothing else, and
// what it does can be tried by hand.

// jobFlags are the options of all verbs of jobs.
type jobFlags struct{ file string }

func (o *jobFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.file, "jobs", "", "the job `file` (also $COWL_JOBS; ~/.config/cowl/jobs.conf, of root /etc/cowl/jobs.conf)")
}

// path returns the job file's name.
func (o *jobFlags) path(a *app) string {
	switch config, home := a.Getenv("XDG_CONFIG_HOME"), a.Getenv("HOME"); {
	case o.file != "":
		return o.file
	case a.Getenv("COWL_JOBS") != "":
		return a.Getenv("COWL_JOBS")
	case os.Geteuid() == 0:
		return "/etc/cowl/jobs.conf"
	case filepath.IsAbs(config):
		return filepath.Join(config, "cowl", "jobs.conf")
	default:
		return filepath.Join(home, ".config", "cowl", "jobs.conf")
	}
}

// load reads the jobs, all or those that are named.
func (o *jobFlags) load(a *app, names []string) ([]*jobfile.Job, error) {
	path := o.path(a)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errs.WithHint(errs.E(errs.NotFound, "there is no job file %s", path), "Name it with --jobs; docs/cli.md has an example.")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, jobfile.MaxSize+1))
	if err != nil {
		return nil, err
	}
	all, err := jobfile.Parse(text)
	if err != nil {
		return nil, errs.E(errs.Other, "job file %s: %w", path, err)
	}
	if len(names) == 0 {
		return all, nil
	}
	var out []*jobfile.Job
	for _, name := range names {
		i := slices.IndexFunc(all, func(j *jobfile.Job) bool { return j.Name == name })
		if i < 0 {
			return nil, errs.E(errs.NotFound, "there is no job %q in %s", name, path)
		}
		out = append(out, all[i])
	}
	return out, nil
}

func newJob(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "job COMMAND [NAME...]", Short: "Run backups that are described in a file", GroupID: groupOwn,
		Long: `A job file says what is backed up, where to, how long it is kept, and how it is
verified:

  nightly {
      volumes = ["server1/db", "server1/log"]
      target = "repo:/backups/cowl"
      password_file = "/root/backup.password"
      schedule = "02:30"
      hooks { before_snapshot = "psql -c checkpoint" on_failure = "mail -s failed root </dev/null" }
      retention { daily = 7 weekly = 4 prune = 1 }
      verify { schedule = "weekly" sample = 10 }
      drill { schedule = "monthly" }
  }

docs/cli.md has all keys. Each job is a few commands of cowl's, which job list -v
shows.`,
		Example: `  cowl job check
  cowl job run nightly
  cowl job units --dir /etc/systemd/system`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(cmd, args[0])
			}
			return noSyntax(cmd)
		},
	}
	for _, sub := range []*cobra.Command{newJobRun(a), newJobList(a), newJobCheck(a), newJobUnits(a)} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

// access are the options that lead into the target.
func accessArgs(j *jobfile.Job) (args []string) {
	if j.PasswordFile != "" {
		args = append(args, "--password-file", j.PasswordFile)
	}
	if j.PasswordCommand != "" {
		args = append(args, "--password-command", j.PasswordCommand)
	}
	return args
}

// backupCommands are the commands of a job's main part.
func backupCommands(j *jobfile.Job) [][]string {
	args := append(append([]string{"backup"}, j.Volumes...), "--to", j.Target)
	for option, value := range map[string]string{"--format": j.Format, "--compress": j.Compress, "--size": j.Size, "--hook-timeout": j.HookTimeout} {
		if value != "" {
			args = append(args, option, value)
		}
	}
	for _, stage := range jobfile.Stages {
		if command := j.Hooks[stage]; command != "" {
			args = append(args, "--"+strings.ReplaceAll(stage, "_", "-"), command)
		}
	}
	if j.NoFreeze {
		args = append(args, "--no-freeze")
	}
	if j.NoTrack {
		args = append(args, "--no-track")
	}
	out := [][]string{append(args, accessArgs(j)...)}
	if len(j.Retention) > 0 || j.Within != "" {
		out = append(out, forgetCommand(j))
	}
	return out
}

func forgetCommand(j *jobfile.Job) []string {
	args := append([]string{"forget", j.Target}, j.Volumes...)
	for _, rule := range jobfile.Rules {
		if n := j.Retention[rule]; n > 0 {
			args = append(args, "--keep-"+rule, strconv.FormatInt(n, 10))
		}
	}
	if j.Within != "" {
		args = append(args, "--keep-within", j.Within)
	}
	if j.Prune {
		args = append(args, "--prune")
	}
	return append(args, accessArgs(j)...)
}

// verifyCommands and drillCommands are those of its other parts.
func verifyCommands(j *jobfile.Job) [][]string {
	args := []string{"verify", j.Target}
	if j.Verify != nil && j.Verify.Sample > 0 && j.Verify.Sample < 100 {
		args = append(args, "--sample", strconv.FormatInt(j.Verify.Sample, 10))
	}
	return [][]string{append(args, accessArgs(j)...)}
}

func drillCommands(j *jobfile.Job) [][]string {
	args := []string{"drill", j.Target}
	if j.Drill != nil && j.Drill.Run != "" {
		args = append(args, "--run", j.Drill.Run)
	}
	if j.Drill != nil && j.Drill.Dir != "" {
		args = append(args, "--dir", j.Drill.Dir)
	}
	return [][]string{append(args, accessArgs(j)...)}
}

// shellText writes arguments as they are typed.
func shellText(args []string) string {
	var out []string
	for _, arg := range args {
		if arg == "" || strings.ContainsAny(arg, " \t\"'\\$`&|;<>()*?[]#~{}!") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		out = append(out, arg)
	}
	return strings.Join(out, " ")
}

func newJobList(a *app) *cobra.Command {
	var o jobFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list [NAME...] [OPTION]...", Short: "List jobs",
		Long:    "List the jobs in the job file; with -v also the commands that each consists of.",
		Example: `  cowl job list -v`,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			jobs, err := o.load(a, args)
			if err != nil {
				return err
			}
			if asJSON {
				return a.sayJSON(map[string]any{"jobs": jobs})
			}
			w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, indent+"Job\tVolumes\tTarget\tSchedule")
			for _, j := range jobs {
				schedule := j.Schedule
				if schedule == "" {
					schedule = "-"
				}
				fmt.Fprintf(w, indent+"%s\t%s\t%s\t%s\n", j.Name, strings.Join(j.Volumes, " "), j.Target, schedule)
			}
			if err := w.Flush(); err != nil || a.verbose == 0 {
				return err
			}
			for _, j := range jobs {
				for _, args := range slices.Concat(backupCommands(j), verifyCommands(j), drillCommands(j)) {
					a.say("%s: cowl %s", j.Name, shellText(args))
				}
			}
			return nil
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of a table")
	return cmd
}

func newJobCheck(a *app) *cobra.Command {
	var o jobFlags
	cmd := &cobra.Command{
		Use: "check [NAME...] [OPTION]...", Short: "See whether jobs could be run",
		Long: `Read the job file, and try of every job whether its backup could begin: whether
volumes and target are there, and the password is right. Nothing is changed, and
no hook is run.`,
		Example: `  cowl job check
  cowl job check nightly --jobs jobs.conf`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			jobs, err := o.load(a, args)
			if err != nil {
				return err
			}
			a.test = true
			var failed error
			for _, j := range jobs {
				if t, name, err := targets.Parse(j.Target); err != nil || name != "" {
					a.note("Job %s: %q is no target for backups.", j.Name, t)
					failed = errSilent
					continue
				}
				if err := a.runJob(cmd.Context(), j, backupCommands(j)[:1], a.runCommand); err != nil {
					failed = coded{errSilent, max(exitCode(failed), exitCode(err))}
					continue
				}
				a.say("Job %s could be run.", j.Name)
			}
			return failed
		},
	}
	o.add(cmd.Flags())
	return cmd
}
