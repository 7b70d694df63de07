package main

import (
	"log/slog"
	"os"
	"time"

	"cmkfs/supervisor"

	"github.com/alecthomas/kong"
)

type serveCmd struct {
	Config        kong.ConfigFlag `placeholder:"FILE" help:"A JSON file with the values of flags, by their name."`
	MetricsListen string          `placeholder:"ADDR" help:"Serve Prometheus metrics at this loopback address, for example 127.0.0.1:9105."`
	DrainTimeout  time.Duration   `default:"2s" placeholder:"2s" help:"How long a suspension lets the kernel write back what programs wrote; the rest is refused, and fsync or close say so."`
	ReadyFD       int             `name:"ready-fd" hidden:"" default:"-1"`
}

// Help has the command's example.
func (*serveCmd) Help() string {
	return "Stays in the foreground and logs to standard error; tells systemd when it is ready. SIGTERM unmounts everything and ends it.\n\nExample:\n  cmkfsd serve --state-dir /var/lib/cmkfs"
}

// Run is the daemon's life.
func (c *serveCmd) Run(s *session) error {
	log := newLog(s.err)
	slog.SetDefault(log)
	return supervisor.Run(s.ctx, supervisor.Config{
		StateDir: s.cli.StateDir, Version: version, MetricsListen: c.MetricsListen, DrainTimeout: c.DrainTimeout, Log: log,
		Listening: c.ready,
	})
}

// ready tells the command that started this daemon in the background.
func (c *serveCmd) ready() {
	if c.ReadyFD < 0 {
		return
	}
	f := os.NewFile(uintptr(c.ReadyFD), "ready")
	if _, err := f.Write([]byte{1}); err != nil {
		slog.Warn("nobody waits for the daemon to be ready", "err", err)
	}
	f.Close()
}
