-- One content feature per user of tonight: the pooled embedding of its accepted history reasons, of its evidence, or of both, as
-- $vector_of says (user_embedding.sql); `source` says which. `n_reasons` and `mean_score` are of the reasons behind it: none where
-- it is the evidence's. A corrected reason is one more of the user's reasons.
-- A user of whom nothing is known has zeros ($zero_embedding, as wide as the encoder) and `missing` set.
with scored as (
    select user_id, accepted, score from reason_score where kind = 'history'
    union all
    select user_id, reason is not null as accepted, score from reason_correction
),
said_of as (
    select
        user_id,
        array_to_string(array_concat(liked, attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'history'
),
evidence as (
    select distinct user_id
    from said_of
    where said <> ''
),
accepted as (
    select
        s.user_id,
        count(*) as n_reasons,
        -- Summed as decimals, so that the order of the rows cannot change the last bit.
        sum(cast(least(greatest(s.score, -1e9), 1e9) as decimal(18, 8))) filter (where s.score is not null) as score_sum,
        count(s.score) as n_scores
    from scored as s
    left anti join (select user_id from evidence where $vector_of = 'evidence') as e on e.user_id = s.user_id
    where s.accepted and s.user_id is not null
    group by s.user_id
),
found as (
    select
        p.entity_id as user_id,
        a.n_reasons,
        a.score_sum,
        a.n_scores,
        p.embedding,
        case when a.n_reasons is null then 'evidence' when e.user_id is null then 'reason' else 'both' end as source
    from user_embedding as p
    left join accepted as a on a.user_id = p.entity_id
    left join (select user_id from evidence where $vector_of = 'both') as e on e.user_id = p.entity_id
    where p.embedding is not null
)
select
    cast(t.user_id as varchar) as user_id,
    $as_of as event_timestamp,
    $interval_end as created_timestamp,
    case when f.user_id is not null then f.embedding else $zero_embedding end as embedding,
    cast(coalesce(f.n_reasons, 0) as integer) as n_reasons,
    cast(case when f.n_scores > 0 then cast(f.score_sum as double) / cast(f.n_scores as double) end as float)
        as mean_score,
    f.user_id is null as missing,
    cast(coalesce(f.source, 'none') as varchar) as source
from user_history as t
left join found as f on f.user_id = t.user_id
order by user_id
