package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/backup/jobfile"
	"cowl/internal/errs"
)

// jobParts are what a job can do, by the word that reports have for it.
var jobParts = map[string]func(*jobfile.Job) [][]string{"backup": backupCommands, "verify": verifyCommands, "drill": drillCommands}

func newJobRun(a *app) *cobra.Command {
	var o jobFlags
	var verify, drill, asJSON bool
	cmd := &cobra.Command{
		Use: "run [NAME...] [OPTION]...", Short: "Run jobs",
		Long: `Run the jobs that are named, or all: back up, and forget what no rule keeps any
more. With --verify or --drill do that part of the job instead.

The exit code is 0 if all is well, 1 if the backups are good and something beside
them failed, and 3 or more if one failed. A job that fails does not keep the
others from being run. --json prints, when all is over, what each command of each
job did.`,
		Example: `  cowl job run nightly
  cowl job run nightly --verify
  cowl job run --json >/var/log/cowl/last.json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			part := "backup"
			switch {
			case verify && drill:
				return usage(cmd, "Please specify only one of --verify and --drill.")
			case verify:
				part = "verify"
			case drill:
				part = "drill"
			}
			jobs, err := o.load(a, args)
			if err != nil {
				return err
			}
			if asJSON {
				return a.reportJobs(cmd.Context(), jobs, part)
			}
			var failed error
			for _, j := range jobs {
				if err := a.runJob(cmd.Context(), j, jobParts[part](j), a.runCommand); err != nil {
					failed = coded{errSilent, max(exitCode(failed), exitCode(err))}
				}
				if cmd.Context().Err() != nil {
					break
				}
			}
			return failed
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().BoolVar(&verify, "verify", false, "verify the target instead")
	cmd.Flags().BoolVar(&drill, "drill", false, "restore the latest backups into scratch files instead")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of the commands' output")
	return cmd
}

// runJob runs commands of a job by run, up to the first that fails.
func (a *app) runJob(ctx context.Context, j *jobfile.Job, commands [][]string, run func(context.Context, []string) error) error {
	code := exitOK
	for _, args := range commands {
		err := run(ctx, args)
		if code = max(code, exitCode(err)); code > exitIncomplete {
			a.note("Job %s failed: cowl %s", j.Name, shellText(args))
			break
		}
	}
	if code == exitOK {
		return nil
	}
	return coded{errSilent, code}
}

// runCommand runs a command line as a person would, with this one's options
// about devices and testing.
func (a *app) runCommand(ctx context.Context, args []string) error {
	_, err := a.another(ctx, a.Env, a.withGlobals(args))
	a.complain(err)
	return err
}

// withGlobals adds this command line's options about devices and testing.
func (a *app) withGlobals(args []string) []string {
	args = append([]string(nil), args...)
	if a.test {
		args = append(args, "--test")
	}
	for range a.quiet {
		args = append(args, "--quiet")
	}
	for _, d := range a.devices {
		args = append(args, "--devices", d)
	}
	if a.devicesFile != "" {
		args = append(args, "--devicesfile", a.devicesFile)
	}
	return args
}

// jobsRun is what cowl job run --json prints.
type jobsRun struct {
	Jobs []*jobRun `json:"jobs"`
	jobEnd
}

// jobRun is what became of a job.
type jobRun struct {
	Job   string     `json:"job"`
	Part  string     `json:"part"`  // of jobParts
	Steps []*jobStep `json:"steps"` // that were begun
	jobEnd
}

// jobStep is what became of one command.
type jobStep struct {
	Command []string `json:"command"` // without the program's name, and --json
	jobEnd
	Error    string          `json:"error,omitempty"`
	Kind     string          `json:"kind,omitempty"` // of the error, as errs.Kind has it
	Hint     string          `json:"hint,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Report   json.RawMessage `json:"report,omitempty"` // what the command prints with --json
}

// jobEnd is how something ended, and how long it took.
type jobEnd struct {
	Result   string    `json:"result"` // ok, warning or failed
	ExitCode int       `json:"exit_code"`
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
}

// end notes that it ended with an exit code.
func (e *jobEnd) end(code int) {
	e.Result, e.ExitCode, e.Seconds = "failed", code, time.Since(e.Started).Seconds()
	switch code {
	case exitOK:
		e.Result = "ok"
	case exitIncomplete:
		e.Result = "warning"
	}
}

// begun is something that begins now.
func begun() jobEnd { return jobEnd{Started: time.Now()} }

// reportJobs runs a part of jobs, and prints what became of it. What people would see
// besides goes to standard error all the same.
func (a *app) reportJobs(ctx context.Context, jobs []*jobfile.Job, part string) error {
	all := jobsRun{Jobs: []*jobRun{}, jobEnd: begun()}
	code := exitOK
	for _, j := range jobs {
		r := &jobRun{Job: j.Name, Part: part, Steps: []*jobStep{}, jobEnd: begun()}
		err := a.runJob(ctx, j, jobParts[part](j), func(ctx context.Context, args []string) error {
			step, err := a.reportCommand(ctx, args)
			r.Steps = append(r.Steps, step)
			return err
		})
		r.end(exitCode(err))
		all.Jobs = append(all.Jobs, r)
		code = max(code, r.ExitCode)
		if ctx.Err() != nil {
			break
		}
	}
	all.end(code)
	if err := a.sayJSON(all); err != nil || code == exitOK {
		return err
	}
	return coded{errSilent, code}
}

// reportCommand is runCommand with a report instead of output.
func (a *app) reportCommand(ctx context.Context, args []string) (*jobStep, error) {
	step := &jobStep{Command: args, jobEnd: begun()}
	var out bytes.Buffer
	env := *a.Env
	env.Stdout = &out
	said, err := a.another(ctx, &env, append(a.withGlobals(args), "--json"))
	a.complain(err)
	step.end(exitCode(err))
	switch step.Warnings = said.warnings; {
	case errors.Is(err, errSilent): // it has said so already
		step.Error = strings.Join(said.complaints, "\n")
	case errs.OnlyWarnings(err):
		step.Warnings = append(step.Warnings, err.Error())
	case err != nil:
		step.Error, step.Kind, step.Hint = err.Error(), errs.KindOf(err).String(), errs.HintOf(err)
	}
	if json.Valid(out.Bytes()) {
		step.Report = out.Bytes()
	}
	return step, err
}
