package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"

	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
)

// The files that the builder would be sent for a Dockerfile: the folder without what FILE.dockerignore leaves out.
func listContext(ctx context.Context, folder, file string) ([]string, error) {
	text, err := os.ReadFile(file + ".dockerignore")
	if err != nil {
		return nil, err
	}
	excluded, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s.dockerignore: %w", file, err)
	}
	all, err := fsutil.NewFS(folder)
	if err != nil {
		return nil, err
	}
	sent, err := fsutil.NewFilterFS(all, &fsutil.FilterOpt{ExcludePatterns: excluded})
	if err != nil {
		return nil, err
	}
	files := []string{}
	err = sent.Walk(ctx, "", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			files = append(files, path)
		}
		return nil
	})
	return files, err
}
