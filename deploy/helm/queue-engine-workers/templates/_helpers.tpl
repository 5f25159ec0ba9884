{{/* Labels of the objects of this chart. Objects of workers have labels of the controller, and not these. */}}
{{- define "queue-engine-workers.labels" -}}
app.kubernetes.io/name: queue-engine-workers
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The labels of the engine's pods of a role, in the same cluster. */}}
{{- define "queue-engine-workers.engine" -}}
app.kubernetes.io/name: queue-engine
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The namespace of the engine: that of the release, unless the engine is elsewhere. */}}
{{- define "queue-engine-workers.engineNamespace" -}}
{{- .Values.networkPolicy.engine.namespace | default .Release.Namespace -}}
{{- end }}
