-- One content feature per item of tonight, user-independent where it must be: the pooled embedding of the accepted
-- item reasons. Pooling is not SQL's work: `pooled_embedding(kind, entity_id, embedding)` holds one vector per entity.
-- A item without an accepted reason has zeros ($zero_embedding, as wide as the encoder) and `missing` set.
with accepted as (
    select
        item_id,
        count(*) as n_reasons,
        -- Summed as decimals, so that the order of the rows cannot change the last bit.
        sum(cast(least(greatest(score, -1e9), 1e9) as decimal(18, 8))) as score_sum,
        count(score) as n_scores
    from reason_score
    where kind = 'item' and accepted and item_id is not null
    group by item_id
),
pooled as (
    select entity_id, embedding
    from pooled_embedding
    where kind = 'item'
)
select
    cast(t.item_id as varchar) as item_id,
    $as_of as event_timestamp,
    $interval_end as created_timestamp,
    case when a.n_reasons > 0 and p.embedding is not null then p.embedding else $zero_embedding end as embedding,
    cast(coalesce(a.n_reasons, 0) as integer) as n_reasons,
    cast(case when a.n_scores > 0 then cast(a.score_sum as double) / cast(a.n_scores as double) end as float)
        as mean_score,
    not (a.n_reasons > 0 and p.embedding is not null) is true as missing
from item_audience as t
left join accepted as a on a.item_id = t.item_id
left join pooled as p on p.entity_id = t.item_id
order by item_id
