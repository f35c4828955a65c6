# What workers, MLflow's server and readers of clips may do: attach each policy to the role that the
# machines or pods run as. Workers never need a key to MLflow's artifacts, nor MLflow one to the store.

locals {
  # Heads are gets, parts of an upload are puts, and what was begun must be given up again.
  write_actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]

  writers = {
    store  = "${aws_s3_bucket.store.arn}/store/*"
    mlflow = "${aws_s3_bucket.store.arn}/mlflow/*"
  }
}

data "aws_iam_policy_document" "writer" {
  for_each = local.writers

  statement {
    sid       = "Objects"
    actions   = local.write_actions
    resources = [each.value]
  }

  # On the whole bucket: asked for an object that is not there, S3 says 404 only to those who may list
  # the bucket. A condition on the prefix would turn every first look at a key into "access denied".
  statement {
    sid       = "Listing"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.store.arn]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_policy" "writer" {
  for_each = local.writers

  name   = "${var.bucket}-${each.key}"
  policy = data.aws_iam_policy_document.writer[each.key].json
  tags   = var.tags
}

data "aws_iam_policy_document" "clips" {
  count = length(var.clip_buckets) > 0 ? 1 : 0

  statement {
    sid       = "Clips"
    actions   = ["s3:GetObject"]
    resources = [for bucket in var.clip_buckets : "arn:aws:s3:::${bucket}/*"]
  }

  statement {
    sid       = "Listing"
    actions   = ["s3:ListBucket"]
    resources = [for bucket in var.clip_buckets : "arn:aws:s3:::${bucket}"]
  }
}

resource "aws_iam_policy" "clips" {
  count = length(var.clip_buckets) > 0 ? 1 : 0

  name   = "${var.bucket}-clips"
  policy = data.aws_iam_policy_document.clips[0].json
  tags   = var.tags
}
