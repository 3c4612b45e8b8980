// Reads the files of deploy/ as the programs do that will use them, and prints what they make of them as JSON: the
// Dockerfile by BuildKit's frontend, its context by BuildKit's file walker, the Compose file by the library that is
// `docker compose config`. No Docker daemon, no network.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

const usage = `usage: deploy-check dockerfile FILE
       deploy-check context FOLDER FILE
       deploy-check compose FILE ENV_FILE`

func main() {
	result, err := run(context.Background(), os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "deploy-check: %v\n", err)
		os.Exit(1)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(result); err != nil {
		fmt.Fprintf(os.Stderr, "deploy-check: can't write the result: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) (any, error) {
	switch {
	case len(arguments) == 2 && arguments[0] == "dockerfile":
		return readDockerfile(ctx, filepath.Clean(arguments[1]))
	case len(arguments) == 3 && arguments[0] == "context":
		return listContext(ctx, filepath.Clean(arguments[1]), filepath.Clean(arguments[2]))
	case len(arguments) == 3 && arguments[0] == "compose":
		return readCompose(ctx, arguments[1], arguments[2])
	}
	return nil, fmt.Errorf("%s", usage)
}
