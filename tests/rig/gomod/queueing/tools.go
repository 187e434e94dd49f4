//go:build tools

package tools

import (
	_ "github.com/kubeflow/mpi-operator/cmd/mpi-operator"
	_ "sigs.k8s.io/kueue/cmd/kueue"
)
