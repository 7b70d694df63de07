// Command cmkfsd mounts encrypted volumes whose key stays with the customer.
// It is all of it: the commands people type, the daemon behind them, and the
// daemon's three kinds of child process.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"cmkfs/keyagent"
	"cmkfs/supervisor"
	"cmkfs/worker"

	"github.com/alecthomas/kong"
)

// version is what status and --version show; a release build sets it.
var version = "0.1"

// The hidden commands: what the daemon starts as its children. They are looked
// for before anything else, because descriptors they inherit are theirs alone.
const (
	agentCommand  = "key-agent"
	workerCommand = "worker"
	keeperCommand = "keeper"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case agentCommand:
			if err := keyagent.Serve(keyagent.SocketFD); err != nil {
				fmt.Fprintln(os.Stderr, "cmkfsd key-agent:", err)
				os.Exit(exitFailure)
			}
			return
		case workerCommand:
			worker.Main()
		case keeperCommand:
			if err := supervisor.Keep(os.Args[len(os.Args)-1]); err != nil {
				fmt.Fprintln(os.Stderr, "cmkfsd keeper:", err)
				os.Exit(exitFailure)
			}
			return
		}
		drillProcess(os.Args)
	}
	// A second signal kills: the first may be waiting for a hung network.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// run is the program without its process: arguments in, exit code out.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if isMountHelper(filepath.Base(args[0])) {
		translated, err := mountHelperArgs(args[1:])
		if err != nil {
			return reportError(stderr, err)
		}
		if translated == nil {
			return exitOK // a fake mount
		}
		args = append([]string{"cmkfsd"}, translated...)
	}
	exited := -1
	var grammar cli
	parser, err := kong.New(&grammar,
		kong.Name("cmkfsd"),
		kong.Description("Encrypted volumes whose key stays with the customer. Exit codes: "+exitSummary()+"."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Configuration(loadConfig),
		kong.Vars{"version": "cmkfsd " + version},
	)
	if err != nil {
		panic(err) // the grammar itself is wrong
	}
	if len(args) == 1 {
		args = append(args, "--help")
	}
	command, err := parser.Parse(args[1:])
	if exited >= 0 {
		return exited // --help or --version was served
	}
	if err != nil {
		var parse *kong.ParseError
		help := "cmkfsd --help"
		if errors.As(err, &parse) && parse.Context.Selected() != nil {
			help = "cmkfsd " + parse.Context.Selected().Path() + " --help"
		}
		return reportError(stderr, &usageError{message: err.Error(), hint: "see: " + help})
	}
	s := &session{ctx: ctx, cli: &grammar, out: stdout, err: stderr}
	defer s.close()
	if err := command.Run(s); err != nil {
		return reportError(stderr, err)
	}
	return exitOK
}
