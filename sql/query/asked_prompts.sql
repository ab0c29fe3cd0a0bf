-- The keys of all different prompts that are asked: those that hold evidence. A question about nothing has no grounded
-- answer.
-- Reads reason_prompt. No parameters. pending_prompts.sql has the same condition.
select distinct p.prompt_key
from reason_prompt as p
where
    p.subject is not null
    or coalesce(cardinality(p.liked), 0) + coalesce(cardinality(p.disliked), 0)
        + coalesce(cardinality(p.related), 0) + coalesce(cardinality(p.attributes), 0)
        + coalesce(cardinality(p.content), 0) + coalesce(cardinality(p.praise), 0)
        + coalesce(cardinality(p.fault), 0) + coalesce(cardinality(p.keywords), 0) > 0
