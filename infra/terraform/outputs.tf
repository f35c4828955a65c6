output "store_url" {
  description = "For COGVX_STORE_URL."
  value       = "s3://${aws_s3_bucket.store.bucket}/store"
}

output "mlflow_artifacts_destination" {
  description = "For MLFLOW_ARTIFACTS_DESTINATION of MLflow's server."
  value       = "s3://${aws_s3_bucket.store.bucket}/mlflow"
}

output "policy_arns" {
  description = "Policies to attach: store to workers, mlflow to MLflow's server, clips to workers."
  value = merge(
    { for name, policy in aws_iam_policy.writer : name => policy.arn },
    { for policy in aws_iam_policy.clips : "clips" => policy.arn },
  )
}
