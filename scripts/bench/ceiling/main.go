// Ceiling mounts the product's own FUSE adapter (package fs) over an engine that
// does nothing: names and attributes are in memory, writes are counted and thrown
// away, reads give zeros. No volume behind this adapter can be faster.
//
// Usage: ceiling [-keep] [-writeback] MOUNTPOINT     until SIGTERM, which unmounts
//
// With -keep the engine keeps what is written, for programs that read back what
// they wrote.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cmkfs/fs"

	"golang.org/x/sys/unix"
)

func main() {
	keep := flag.Bool("keep", false, "keep what is written")
	writeback := flag.Bool("writeback", false, "mount with the kernel's writeback cache")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(fs.MountConfig{Mountpoint: flag.Arg(0), Source: "ceiling", AllowOther: true, Writeback: *writeback}, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "ceiling:", err)
		os.Exit(1)
	}
}

func serve(cfg fs.MountConfig, keep bool) error {
	if err := fs.SlowMonitor(os.Getpid()); err != nil { // as a worker's
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	device, err := fs.Mount(ctx, cfg)
	if err != nil {
		return err
	}
	defer device.Close()
	server, err := fs.NewServer(fs.ServeConfig{
		Volume: newEngine(keep), File: device.File, Init: device.Init, Nodes: device.Nodes, Mount: cfg,
		Resend: device.Resend, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		unix.Unmount(cfg.Mountpoint, unix.MNT_DETACH)
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		if err := unix.Unmount(cfg.Mountpoint, unix.MNT_DETACH); err != nil {
			fmt.Fprintln(os.Stderr, "ceiling: unmount:", err)
		}
	}()
	return server.Serve()
}
