package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// What a Dockerfile leads to.
type dockerfile struct {
	// What the builder's own checks say: `docker build --check`.
	Warnings []lint.Warning `json:"warnings"`
	// The base images that would be pulled.
	Bases []string `json:"bases"`
	// The configuration of the image that would be built.
	Image ocispecs.ImageConfig `json:"image"`
	// HEALTHCHECK, which is Docker's own and no part of an OCI image.
	Healthcheck any `json:"healthcheck"`
}

func readDockerfile(ctx context.Context, path string) (*dockerfile, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	bases := &emptyBases{seen: map[string]bool{}}
	options := func() dockerfile2llb.ConvertOpt {
		// The checks show where the source came from, and do not take "nowhere" for an answer.
		where := llb.NewSourceMap(nil, path, "Dockerfile", source)
		where.Definition = &llb.Definition{}
		return dockerfile2llb.ConvertOpt{Config: dockerui.Config{}, SourceMap: where, MetaResolver: bases}
	}
	checked, err := dockerfile2llb.DockerfileLint(ctx, source, options())
	if err != nil {
		return nil, err
	}
	if checked.Error != nil {
		return nil, fmt.Errorf("%s: %s", path, checked.Error.Message)
	}
	built, err := dockerfile2llb.Dockerfile2LLB(ctx, source, options())
	if err != nil {
		return nil, err
	}
	result := &dockerfile{Warnings: checked.Warnings, Bases: bases.names, Image: built.Image.Config.ImageConfig}
	if built.Image.Config.Healthcheck != nil {
		result.Healthcheck = built.Image.Config.Healthcheck
	}
	return result, nil
}

// Stands in for the registry: every image exists and sets nothing.
type emptyBases struct {
	names []string
	seen  map[string]bool
}

func (bases *emptyBases) ResolveImageConfig(
	_ context.Context, ref string, _ sourceresolver.Opt,
) (string, digest.Digest, []byte, error) {
	if !bases.seen[ref] {
		bases.seen[ref] = true
		bases.names = append(bases.names, ref)
	}
	config, err := json.Marshal(ocispecs.Image{
		Platform: ocispecs.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   ocispecs.RootFS{Type: "layers"},
	})
	return ref, digest.FromBytes(config), config, err
}
