// The store server of the tests: FerretDB with its SQLite backend behind a front that forwards one message at a time.
//
// It listens where it is told, keeps its data in the folder that it is told, prints one line when it is ready, and ends
// on SIGTERM. It sends no telemetry.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/FerretDB/FerretDB/ferretdb"
)

// How long an orderly end may take. What is in the database is safe at any time.
const grace = 10 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "ferretdb: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:0", "the address to listen on, `host:port`")
	state := flag.String("state", "", "the `folder` of the database files, made when it is missing")
	flag.Parse()
	if *state == "" || flag.NArg() > 0 {
		return errors.New("usage: ferretdb -listen HOST:PORT -state FOLDER")
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	folder, err := filepath.Abs(*state)
	if err != nil {
		return fmt.Errorf("the state folder: %w", err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("the state folder: %w", err)
	}
	// Bound before the database is opened: of two processes on one address and folder the second one ends here.
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	// An abstract socket: no other host reaches it, its name has no limit worth minding, and no file is left behind.
	inner := fmt.Sprintf("@runmesh-ferretdb-%d", os.Getpid())
	database, err := ferretdb.New(&ferretdb.Config{
		Listener: ferretdb.ListenerConfig{Unix: inner},
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Handler:  "sqlite",
		// Commits are not flushed to the disk: what was committed survives the end of the process, which tests cause, and
		// not that of the machine, which they don't.
		SQLiteURL: "file:" + folder + "/?_pragma=synchronous(off)",
	})
	if err != nil {
		return err
	}

	ended := make(chan error, 1)
	go func() { ended <- database.Run(ctx) }()
	front := &front{listener: listener, backend: inner}
	go front.run(ctx)
	fmt.Printf("ready on %s\n", listener.Addr())

	<-ctx.Done()
	front.close()
	select {
	case err := <-ended:
		return err
	case <-time.After(grace):
		return fmt.Errorf("it did not end within %s", grace)
	}
}
