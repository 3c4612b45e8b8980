{{/* The name of the application. */}}
{{- define "runmesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* What the names of all objects begin with. Short enough for `-event-log` and the hashes of pods. */}}
{{- define "runmesh.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "runmesh.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Every role of the binary: one Deployment each. */}}
{{- define "runmesh.roles" -}}
execution scheduler saga runner results dlq replay event-log relay gateway
{{- end -}}

{{/* The roles that have gRPC services for the gateway and other callers. */}}
{{- define "runmesh.apis" -}}
execution scheduler saga results dlq replay event-log
{{- end -}}

{{/* Labels by which pods are selected: they can never change. */}}
{{- define "runmesh.selector" -}}
app.kubernetes.io/name: {{ include "runmesh.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of all objects. */}}
{{- define "runmesh.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "runmesh.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The settings of a role, over roleDefaults. Takes root and role; gives YAML. */}}
{{- define "runmesh.role" -}}
{{- $own := get .root.Values.roles .role | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.roleDefaults) (deepCopy $own) | toYaml -}}
{{- end -}}

{{- define "runmesh.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the settings that are secret. */}}
{{- define "runmesh.secret" -}}
{{- .Values.existingSecret | default (include "runmesh.fullname" .) -}}
{{- end -}}

{{/* The ServiceAccount of a role. Takes root and role. */}}
{{- define "runmesh.serviceAccount" -}}
{{- if .root.Values.serviceAccount.create -}}
{{- printf "%s-%s" (include "runmesh.fullname" .root) .role -}}
{{- else -}}
{{- .root.Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}
