// What Kubeflow's kubectl-delivery image does: brings kubectl into the folder that the launcher of an MPIJob (v1) has in common with it.
package main

import (
	"io"
	"log"
	"os"
	"path/filepath"
)

func main() {
	from, err := os.Open("/bin/kubectl")
	if err != nil {
		log.Fatal(err)
	}
	to, err := os.OpenFile(filepath.Join(os.Getenv("TARGET_DIR"), "kubectl"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		log.Fatal(err)
	}
	if _, err = io.Copy(to, from); err != nil {
		log.Fatal(err)
	}
	if err = to.Close(); err != nil {
		log.Fatal(err)
	}
}
