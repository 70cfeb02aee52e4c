package provisioner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// FindTool returns the absolute path of a program: as configured, next to our
// own, or on PATH.
func FindTool(configured, name string) (string, error) {
	if configured != "" {
		path, err := exec.LookPath(configured)
		if err != nil {
			return "", fmt.Errorf("%s is not a program: correct the path, or build it with make build: %w", configured, err)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither next to agentlab nor on PATH: build it with make build, or install it with make install", name)
	}
	return filepath.Abs(path)
}
